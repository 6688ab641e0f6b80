"""The configuration of one trial, its identity, and its binding to data and weights."""

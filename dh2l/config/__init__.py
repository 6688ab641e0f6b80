"""Config of one trial, its identity, and its binding to data."""

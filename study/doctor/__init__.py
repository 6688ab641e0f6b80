"""Checks of a machine or a cluster before a long run."""

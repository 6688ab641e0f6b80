"""Searchers, which suggest the trials of a run."""

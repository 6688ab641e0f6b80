"""Atomic files and object stores; bounded readers of YAML, npz and pickles; validation messages."""

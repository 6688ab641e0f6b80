"""Atomic files, object stores, bounded readers, and validation messages."""

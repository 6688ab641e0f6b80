"""Estimates of time, cost and GPU sharing, from measurements."""

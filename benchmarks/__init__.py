"""Benchmarks: costs as ratios to common alternatives.

Run as `python -m benchmarks`.
"""

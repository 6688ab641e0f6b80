"""Regularisers of a network's weight vectors, built-in and registered."""

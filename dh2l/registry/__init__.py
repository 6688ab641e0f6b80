"""Penalties, regularisers and models by name."""

from dh2l.registry.register import model, penalty, regulariser

__all__ = ["model", "penalty", "regulariser"]

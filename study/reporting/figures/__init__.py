"""Figures of a report, drawn by Matplotlib from tidy frames.

Each function makes one figure.
"""

from study.reporting.figures.class_vectors import cosine_levels, cosine_maps
from study.reporting.figures.comparison import compared, forest, responses
from study.reporting.figures.learning_curves import FEW, learning_curves, violation_curves
from study.reporting.figures.style import to_svg

__all__ = [
    "FEW",
    "compared",
    "cosine_levels",
    "cosine_maps",
    "forest",
    "learning_curves",
    "responses",
    "to_svg",
    "violation_curves",
]

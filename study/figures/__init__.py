"""The pictures of a report, by Matplotlib, from tidy frames; each function makes one figure."""

from study.figures.angles import cosine_levels, cosine_maps
from study.figures.comparison import compared, forest, responses
from study.figures.curves import FEW, learning_curves, violation_curves
from study.figures.style import to_svg

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

"""Deep Hierarchical-Hyperspherical Learning (DH2L) as a library.

    from dh2l import ClassTree, Energy, HierarchicalClassifier

The names below are loaded when they are first used: importing the package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dh2l.config.train_config import TrainConfig
    from dh2l.data import load, prepare
    from dh2l.errors import UserError
    from dh2l.hierarchy.classifier import HierarchicalClassifier, PlainClassifier
    from dh2l.hierarchy.constraints import violations
    from dh2l.hierarchy.regulariser import hierarchical_terms
    from dh2l.pairwise.energy import Energy, energy
    from dh2l.pairwise.penalties import METRICS, pairwise_penalty
    from dh2l.registry import model, penalty, regulariser
    from dh2l.training.saved_networks import load_network
    from dh2l.training.trainer import train
    from dh2l.tree import ClassTree

    __version__: str

_MODULES = {
    "METRICS": "dh2l.pairwise.penalties",
    "ClassTree": "dh2l.tree",
    "Energy": "dh2l.pairwise.energy",
    "HierarchicalClassifier": "dh2l.hierarchy.classifier",
    "PlainClassifier": "dh2l.hierarchy.classifier",
    "TrainConfig": "dh2l.config.train_config",
    "UserError": "dh2l.errors",
    "energy": "dh2l.pairwise.energy",
    "hierarchical_terms": "dh2l.hierarchy.regulariser",
    "load": "dh2l.data",
    "load_network": "dh2l.training.saved_networks",
    "model": "dh2l.registry",
    "pairwise_penalty": "dh2l.pairwise.penalties",
    "penalty": "dh2l.registry",
    "prepare": "dh2l.data",
    "regulariser": "dh2l.registry",
    "train": "dh2l.training.trainer",
    "violations": "dh2l.hierarchy.constraints",
}
"""Public names, each with the module that defines it."""

__all__ = [
    "METRICS",
    "ClassTree",
    "Energy",
    "HierarchicalClassifier",
    "PlainClassifier",
    "TrainConfig",
    "UserError",
    "__version__",
    "energy",
    "hierarchical_terms",
    "load",
    "load_network",
    "model",
    "pairwise_penalty",
    "penalty",
    "prepare",
    "regulariser",
    "train",
    "violations",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dh2l-study")
    if name not in _MODULES:
        raise AttributeError(f"module 'dh2l' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

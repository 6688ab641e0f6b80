"""A trial's data as its study planned them: prepared, and under the class tree that the study gave."""

import json
from pathlib import Path

from dh2l.atomic import AnyPath, read
from dh2l.config import TrainConfig
from dh2l.data import PreparedData, load
from dh2l.tree import ClassTree


def data_of(config: TrainConfig, data: Path, tree: AnyPath) -> PreparedData:
    """A bound config's data.

    Args:
        config: the trial's.
        data: the folder of prepared data sets.
        tree: the file of its class tree, read where the config names one.
    """
    found = load(config.dataset, data)
    if config.tree is None:
        return found
    return found.with_tree(ClassTree(json.loads(read(tree))))

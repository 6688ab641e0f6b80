"""A trial's data as its study planned them: prepared, and under the class tree that the study gave."""

from pathlib import Path

from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData, load
from dh2l.io.files import AnyPath
from study.records.class_trees import read_noted_tree


def load_trial_data(config: TrainConfig, data: Path, tree: AnyPath) -> PreparedData:
    """A bound config's data.

    Args:
        config: the trial's.
        data: the folder of prepared data sets.
        tree: the file of its class tree, read where the config names one.
    """
    found = load(config.dataset, data)
    if config.tree_file is None:
        return found
    return found.with_tree(read_noted_tree(tree))

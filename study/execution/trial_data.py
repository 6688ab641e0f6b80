"""Data of a trial: the prepared data set, with the class tree of the study."""

from pathlib import Path

from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData, load
from dh2l.io.files import AnyPath
from study.records.class_trees import read_noted_tree


def load_trial_data(config: TrainConfig, data: Path, tree: AnyPath) -> PreparedData:
    """Load the data of a bound config.

    Args:
        config: config of the trial.
        data: folder of prepared data sets.
        tree: file of its class tree, read if the config names one.
    """
    found = load(config.dataset, data)
    if config.tree_file is None:
        return found
    return found.with_tree(read_noted_tree(tree))

"""A trial's data as its study planned them: prepared, and under the class tree that the study gave."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dh2l.atomic import AnyPath, read
from dh2l.config import TrainConfig
from dh2l.data import PreparedData, load
from dh2l.errors import DataError
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
    return found.with_tree(_tree(tree))


def _tree(file: AnyPath) -> ClassTree:
    """The class tree that a run left beside the records."""
    try:
        return ClassTree(TypeAdapter(list[list[str]]).validate_json(read(file)))
    except OSError as error:
        raise DataError(
            f"the class tree {file} cannot be read ({error.strerror}); copy it from where the run was"
        ) from None
    except ValidationError:
        raise DataError(f"the class tree {file} is damaged; copy it anew from where the run was") from None

"""Weights and class trees named by a study, or their recorded hashes."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dh2l.config.binding import with_weights_hash
from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest, read_tree, shipped_trees
from dh2l.errors import DataError, UserError, unknown_name_message
from dh2l.io.files import read, write_atomically
from dh2l.io.yaml import is_file
from dh2l.registry.entries import MODELS
from dh2l.tree import ClassTree
from study.records.class_trees import read_noted_tree
from study.records.paths import Places

Hashes = dict[str, str]
"""Hashes of weights and class trees, by kind and name."""


@dataclass
class Inputs:
    """The class trees and weights of a study, with their hashes.

    Attributes:
        recorded: hashes of the last run; used if a file does not exist any more.
        recorded_tree: reads a class tree that a run saved beside the records, given its hash.
        on_note: receives a sentence for each hash that is taken from the last run.
        found: hashes that planning has used so far.
    """

    recorded: Hashes = field(default_factory=dict)
    recorded_tree: Callable[[str], ClassTree] | None = None
    on_note: Callable[[str], None] = lambda _: None
    found: Hashes = field(default_factory=dict)
    _trees: dict[tuple[str, str], ClassTree] = field(default_factory=dict)

    def tree(self, name: str, file: Path | None, manifest: Manifest, folder: Path) -> ClassTree:
        """Return a class tree over a data set's classes.

        Args:
            name: the tree's name in the study.
            file: its file; None for a tree of the library.
            manifest: the manifest of the data set.
            folder: the study's folder; hashes are recorded by the path relative to it.

        Raises:
            UserError: the tree does not exist, or has other classes.
        """
        relative = name if file is None else os.path.relpath(file, folder)
        key, cached = f"tree {manifest.name} {relative}", (relative, manifest.tree_hash)
        if cached in self._trees:
            return self._trees[cached]
        if file is None or is_file(file):
            tree = read_tree(file or name, manifest.classes)
        elif key in self.recorded and self.recorded_tree:
            tree = self.recorded_tree(self.recorded[key])
            self._note(f"the class tree {name}", self.recorded[key])
        else:
            unknown = unknown_name_message("class tree", name, ["shuffled", *shipped_trees()])
            raise UserError(f"{unknown}; or pass the path of a YAML file: {file} does not exist")
        self.found[key] = tree.hash
        self._trees[cached] = tree
        return tree

    def with_weights_hash(self, config: TrainConfig, folder: Path) -> TrainConfig:
        """Return the config with the hash of its weights.

        Args:
            config: the config.
            folder: the study's folder; hashes are recorded by the path relative to it.

        Raises:
            UserError: the weights do not exist.
        """
        weights = config.weights
        if weights is None or weights in MODELS[config.model].weights:
            return with_weights_hash(config)
        relative = os.path.relpath(weights, folder) if Path(weights).is_absolute() else weights
        key = f"weights {relative}"
        if key in self.recorded and _is_missing(weights):
            if key not in self.found:
                self._note(f"the file of weights {relative}", self.recorded[key])
            config = config.model_copy(update={"weights_hash": self.recorded[key]})
        else:
            config = with_weights_hash(config)
        self.found[key] = config.weights_hash
        return config

    def _note(self, subject: str, recorded_hash: str) -> None:
        self.on_note(
            f"{subject} does not exist; its last run is shown, with hash {recorded_hash[:12]}"
        )


def load_inputs(study: str, places: Places, on_note: Callable[[str], None]) -> Inputs:
    """Return the inputs of a study with the hashes of its last run, if they can be read."""

    def tree(tree_hash: str) -> ClassTree:
        found = read_noted_tree(places.tree(tree_hash))
        if found.hash != tree_hash:
            raise DataError(
                f"the class tree {places.tree(tree_hash)} was edited; copy it again from the "
                "results of the run"
            )
        return found

    return Inputs(recorded=_read(study, places), recorded_tree=tree, on_note=on_note)


def save_inputs(study: str, places: Places, inputs: Inputs) -> None:
    """Save the hashes of a study's inputs beside the records, merged with those of earlier runs.

    Raises:
        OSError: the file cannot be written.
    """
    before = _read(study, places)
    merged = before | inputs.found
    if merged != before:
        write_atomically(places.inputs(study), json.dumps(merged, indent=1).encode())


def _read(study: str, places: Places) -> Hashes:
    try:
        return TypeAdapter(Hashes).validate_json(read(places.inputs(study)))
    except (OSError, ValidationError, UserError):
        return {}


def _is_missing(weights: str) -> bool:
    try:
        return not Path(weights).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # Planning reports the reason.
        return False

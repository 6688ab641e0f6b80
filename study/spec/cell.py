"""The configs of one cell: points resolved, validated, and bound to data and weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from dh2l.config.batch_sizes import check_batches, n_training_images
from dh2l.config.binding import bind, channel_statistics, check_tree_file, weights_by_name
from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest, shipped_trees
from dh2l.errors import UserError, first_line
from dh2l.io.validation import validation_messages
from dh2l.tree import ClassTree
from study.spec.cell_checks import check_arm, check_full_training_set, check_sources
from study.spec.cell_settings import CellSettings, Pick
from study.spec.inputs import Inputs
from study.spec.point import PointResolver
from study.spec.settings import Value


@dataclass(frozen=True)
class CellConfigs(CellSettings):
    """Builds the configs of one cell.

    Attributes:
        manifest_of: returns the manifest of a prepared data set, given its name.
        inputs: reads the weights and class trees that the study names.
    """

    manifest_of: Callable[[str], Manifest]
    inputs: Inputs = field(default_factory=Inputs)

    def resolve_point(self, pick: Pick) -> dict[str, Value]:
        """Return one point of the search: the values of its axes, in the order of the axes.

        It lacks the axes whose `when` does not hold, and those of a part that a searched weight of
        0 removes.

        Raises:
            UserError: axes depend on each other.
        """
        return PointResolver(self, pick).point()

    def config(self, values: dict[str, Value], seed: int, *, confirm: bool = False) -> TrainConfig:
        """Return the bound config of a point for a seed; to confirm, on the full training set.

        Raises:
            UserError: not a valid trial, with the source location of the setting; or a data set
                that is not prepared.
        """
        config = self.unbound_config(values, seed, confirm=confirm)
        with self._located("dataset"):
            manifest = self.manifest_of(config.dataset)
        return self._bound(config, manifest)

    def unbound_config(
        self, values: dict[str, Value], seed: int, *, confirm: bool = False
    ) -> TrainConfig:
        """Return the config of a point for a seed, not yet bound to its data.

        Raises:
            UserError: not a valid trial, with the source location of the setting.
        """
        check_sources(self, values)
        protocol = {"protocol": "paper"} if confirm else {}
        try:
            config = TrainConfig.model_validate(self.settings(values) | protocol | {"seed": seed})
        except ValidationError as error:
            cell = f"(row {self.row_name!r}, column {self.column.name!r})"
            raise UserError(
                "\n".join(
                    f"{self.source_location(_field(found.location))}: {found.sentence} {cell}"
                    for found in validation_messages(error, TrainConfig)
                )
            ) from None
        check_arm(self, config, values)
        if config.protocol == "paper":
            check_full_training_set(self, values, confirming=confirm)
        return config

    def _bound(self, config: TrainConfig, manifest: Manifest) -> TrainConfig:
        """Bind a config to its data, class tree and weights, and check that it can train."""
        tree_key = "dataset" if config.tree is None else "tree"
        if config.tree_file is not None:
            with self._located(tree_key):
                tree = self.tree_of(config.tree_file, manifest)
                check_tree_file(config, manifest.tree, tree)
                manifest = manifest.with_tree(tree)
        with self._located("weights"):
            config = self.with_weights_hash(config)
        with self._located(tree_key):
            bound = bind(config, manifest, weights_hash=config.weights_hash)
        with self._located("statistics"):
            channel_statistics(bound, manifest)
        with self._located("protocol"):
            n = n_training_images(bound, manifest)
        if n is not None:
            with self._located("batch_size"):
                check_batches(bound, n, manifest.image_shape)
        return bound

    @contextmanager
    def _located(self, key: str) -> Iterator[None]:
        """Prefix errors of the block with the source location of the setting that causes them."""
        try:
            yield
        except UserError as error:
            raise type(error)(f"{self.source_location(key)}: {error}") from None

    def with_weights_hash(self, config: TrainConfig) -> TrainConfig:
        """Return the config with the absolute path of its weights and their hash.

        Raises:
            UserError: the weights are missing.
        """
        if config.weights is not None and config.weights not in weights_by_name():
            path = self._resolved("weights", config.weights)
            config = config.model_copy(update={"weights": str(path)})
        return self.inputs.with_weights_hash(config, self.folder)

    def tree_of(self, name: str, manifest: Manifest) -> ClassTree:
        """Return a class tree, given its shipped name or its file.

        Raises:
            UserError: the tree is missing, or does not fit the data set.
        """
        file = None if name in shipped_trees() else self._resolved("tree", name)
        return self.inputs.tree(name, file, manifest, self.folder)

    def _resolved(self, key: str, name: str) -> Path:
        """Return the path of the file that a setting names.

        Raises:
            UserError: the name cannot be the path of a file.
        """
        try:
            return self.file.resolved(self.location(key), name)
        except RuntimeError as error:  # ~user of a user who does not exist
            raise UserError(
                f"{name!r} is not the path of a file ({first_line(error)}); pass the path of one"
            ) from None


def _field(location: tuple[int | str, ...]) -> str:
    """Return the config field of a validation message; empty if it concerns several."""
    return str(location[0]) if location else ""

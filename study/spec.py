"""One cell's trials: its searched axes, and the config of each of their points, with where every setting came from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dh2l.config import TrainConfig
from dh2l.data import Manifest, read_tree
from dh2l.errors import UserError
from dh2l.explain import findings
from dh2l.registry import REGULARISERS, regulariser_fields
from dh2l.tree import ClassTree
from dh2l.weights import channel_statistics, with_weights_hash
from dh2l.yamlfile import is_file
from study.arms import arm_settings, exists_in
from study.space import Axis, Column, Row, Value
from study.studyfile import StudyFile

Pick = Callable[[str, Axis], Value]
"""Gives the value of an axis, by its field."""


@dataclass(frozen=True)
class CellSpec:
    """What makes a cell's configs.

    Attributes:
        file: the study.
        row_number: of the row entry in the file.
        column_number: likewise.
        row: the row entry.
        column: the column.
        arm: the arm.
        metric: the metric that the row names, if any.
        manifest_of: gives the manifest of a prepared data set by its name.
    """

    file: StudyFile
    row_number: int
    column_number: int
    row: Row
    column: Column
    arm: str
    metric: str | None
    manifest_of: Callable[[str], Manifest]

    @property
    def axes(self) -> dict[str, Axis]:
        """The axes that apply: the study's whose field exists in the arm, then the row's own."""
        searched = {key: axis for key, axis in self.file.study.search.items() if exists_in(key, self.arm)}
        if self.row.metric is not None:
            searched.pop("metric", None)
        return {key: axis for key, axis in (searched | self.row.search).items() if key not in self.row.set}

    @property
    def n_points(self) -> int:
        """How many points every combination of the axes makes, before equal ones are counted once."""
        grids = [len(axis.grid) for axis in self.axes.values() if axis.grid is not None]
        return math.prod(grids) * (self.file.study.samples if len(grids) < len(self.axes) else 1)

    def assembled(self, pick: Pick) -> dict[str, Value]:
        """One point of the search: the axes' values in the axes' order, without those whose `when` does not hold.

        Raises:
            UserError: axes that wait for one another.
        """
        axes = self.axes
        fixed = self._settings({})
        values: dict[str, Value] = {}
        absent: set[str] = set()

        def value_of(key: str) -> Value:
            return values[key] if key in values else fixed.get(key, _default(key))

        def settle(key: str, waiting: tuple[str, ...]) -> None:
            if key in waiting:
                raise UserError(
                    f"{self._place((key,))}: the axes {' and '.join(sorted(waiting))} wait for one another; "
                    "change a `when`"
                )
            if key in values or key in absent:
                return
            conditions = axes[key].when
            for other in conditions:
                if other in axes:
                    settle(other, (*waiting, key))
            if all(
                value_of(k) in (wanted if isinstance(wanted, list) else [wanted]) for k, wanted in conditions.items()
            ):
                values[key] = pick(key, axes[key])
            else:
                absent.add(key)

        for key in axes:
            settle(key, ())
        return {key: values[key] for key in axes if key in values}

    def config(self, values: dict[str, Value], seed: int, *, confirm: bool = False) -> TrainConfig:
        """The bound config of a point for a seed; to confirm it, on the full training set.

        Raises:
            UserError: no valid trial, with the place of the setting that makes it so; a data set not prepared.
        """
        study = self.file.study
        self._check_sources(values)
        protocol = {"protocol": "paper"} if confirm else {}
        try:
            config = TrainConfig.model_validate(self._settings(values) | protocol | {"seed": seed})
        except ValidationError as error:
            raise UserError(
                "\n".join(
                    f"{self._place(f.location)}: {f.sentence} (row {self._row_name!r}, column {self.column.name!r})"
                    for f in findings(error, TrainConfig)
                )
            ) from None
        self._check_arm(config)
        if config.protocol == "paper" and values and study.rule != "oracle" and not confirm:
            raise UserError(
                f"{self.file.place(('search',))}: protocol: paper has no validation set to select on, but "
                f"{' and '.join(values)} {'is' if len(values) == 1 else 'are'} searched; use protocol: "
                "validated, or say rule: oracle to choose on the test set (the table will say so)"
            )
        if config.protocol == "paper" and study.accuracy == "best_validation":
            raise UserError(
                f"{self.file.place(('accuracy',))}: protocol: paper has no validation set, so there is no best "
                "validation epoch; use accuracy: last"
            )
        try:
            manifest = self.manifest_of(config.dataset)
        except UserError as error:
            raise type(error)(f"{self._place(('dataset',))}: {error}") from None
        return self._bound(config, manifest)

    def _bound(self, config: TrainConfig, manifest: Manifest) -> TrainConfig:
        """The config tied to its data, class tree and weights."""
        key = "dataset"
        try:
            if config.tree is not None:
                key = "tree"
                manifest = manifest.with_tree(self.tree_of(config.tree, manifest))
            bound = config.bound(manifest)
            key = "weights"
            bound = with_weights_hash(bound)
            key = "statistics"
            channel_statistics(bound, manifest)
        except UserError as error:
            raise type(error)(f"{self._place((key,))}: {error}") from None
        return bound

    def tree_of(self, name: str, manifest: Manifest) -> ClassTree:
        """A class tree by its name: a shipped one, or a file, first from the study's folder."""
        beside = self.file.document.path.parent / name
        return read_tree(beside if is_file(beside) else name, manifest.classes)

    def _settings(self, values: dict[str, Value]) -> dict[str, Any]:
        study = self.file.study
        return {**study.config, **arm_settings(self.arm), **self._of_row, **values, **self.column.set}

    @property
    def _of_row(self) -> dict[str, Value]:
        return self.row.set | ({} if self.metric is None else {"metric": self.metric})

    def _check_sources(self, values: dict[str, Value]) -> None:
        """Refuse a field that two places set, where one would silently win."""
        i, j = self.row_number, self.column_number
        if self.metric is not None and "metric" in self.row.set | self.row.search:
            raise UserError(
                f"{self.file.place(('rows', i, 'set' if 'metric' in self.row.set else 'search', 'metric'))}: this row "
                "names its metric already; keep one of the two"
            )
        if both := (set(self._of_row) | set(values)) & set(self.column.set):
            key = min(both)
            raise UserError(
                f"{self.file.place(('columns', j, 'set', key))}: {key} is set by this column "
                f"and by row {self._row_name!r} too; keep one of the two"
            )
        if over := set(self.file.overrides) & (set(self._of_row) | set(values) | set(self.column.set)):
            key = min(over)
            raise UserError(
                f"--set {key}: the study's rows, columns or axes set {key} themselves; edit a copy of "
                f"{self.file.document.path} instead"
            )

    def _check_arm(self, config: TrainConfig) -> None:
        plain = ("baseline", "baseline+l2")
        if self.arm in plain and "weight_decay" in self.column.set:
            if self.arm == "baseline" and config.arm in plain:
                return  # the column is the l2 term's, as in the paper's Table 1
            raise UserError(
                f"{self.file.place(('rows', self.row_number))}: the column {self.column.name!r} sets weight_decay, "
                "which is the l2 of baseline+l2; name the arm baseline, and the column says whether it has l2"
            )
        if config.arm == self.arm:
            return
        needs = {
            "E": "lambda_e above 0",
            "H": "lambda_l (or a lambda_c, or lambda_o) above 0",
            "H0": "lambda_l, lambda_c and lambda_o of 0",
            **{name: f"{known.weight} above 0" for name, known in REGULARISERS.items()},
        }
        parts = [needs[part] for part in self.arm.split("+") if part in needs and part not in config.arm.split("+")]
        raise UserError(
            f"{self.file.place(('rows', self.row_number))}: row {self._row_name!r} says arm {self.arm}, but its "
            f"settings make it {config.arm}; arm {self.arm} needs "
            + (" and ".join(parts) or "no other regulariser than its own")
            + ": set it in config, row or column, or search it"
        )

    @property
    def _row_name(self) -> str:
        return self.row.name or self.metric or self.arm

    def _place(self, location: tuple[int | str, ...]) -> str:
        """Where the setting came from that a mistake in the config is about."""
        key = str(location[0]) if location else ""
        i, j = self.row_number, self.column_number
        sources: list[tuple[bool, tuple[int | str, ...]]] = [
            (key in self.column.set, ("columns", j, "set", key)),
            (key in self.row.search, ("rows", i, "search", key)),
            (key in self.axes, ("search", key)),
            (key in self.row.set, ("rows", i, "set", key)),
            (key in self.file.study.config, ("config", key)),
        ]
        return self.file.place(next((place for given, place in sources if given), ("rows", i)))


def _default(key: str) -> Value:
    """A config field's default."""
    field = TrainConfig.model_fields.get(key)
    return regulariser_fields()[key] if field is None else field.default

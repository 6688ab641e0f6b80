"""What a study file may say: fixed config, rows × columns, seeds, searched axes, the rule that selects."""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from dh2l.config import TrainConfig
from dh2l.errors import UserError, unknown_name
from dh2l.explain import Finding, findings
from dh2l.names import METRICS
from dh2l.registry import REGULARISERS, regulariser_fields, regulariser_of
from study.places import shipped_studies
from study.yaml12 import Document, parse_value


def _plain(value: Any) -> Any:
    """A value as a config field may have it: one word or number, or a list of numbers."""
    numbers = value if isinstance(value, list) else [value]
    words = (bool, str, type(None)) if not isinstance(value, list) else ()
    for number in numbers:
        if not isinstance(number, (int, float, *words)) or (isinstance(number, float) and not math.isfinite(number)):
            raise ValueError(
                f"{value!r} is no value of a config field: give a word, a finite number or a list of numbers"
            )
    return value


Value = Annotated[Any, AfterValidator(_plain)]

ARMS = ("baseline", "baseline+l2", "E", "H", "H0", "E+H", "E+H0")
"""The arms of the paper, and the two (H0) that it lacks. Registered regularisers are arms too, alone or with these."""

CONDITIONS: dict[str, tuple[str, ...]] = {
    "metric": ("E", "H"),
    "conv_metric": ("E",),
    "lambda_e": ("E",),
    "lambda_l": ("H",),
    "lambda_c1": ("H",),
    "lambda_c2": ("H",),
    "lambda_c3": ("H",),
    "lambda_o": ("H",),
}
"""The parts of an arm, of which one must be there for a field to exist: no λe without E, no λl or λc without H."""


def arm_problem(arm: str) -> str:
    """Why a text is no arm, as a sentence; empty where it is one."""
    if arm in ARMS:
        return ""
    parts = arm.split("+")
    order = ["E", "H", "H0", *REGULARISERS]
    if not set(parts) <= set(order):
        near = [*ARMS, *REGULARISERS, *(f"{base}+{name}" for base in ARMS[2:] for name in REGULARISERS)]
        return unknown_name("arm", arm, [*ARMS, *REGULARISERS] if "+" not in arm else near)
    sorted_parts = sorted(set(parts), key=order.index)
    if {"H", "H0"} <= set(parts):
        return f"arm {arm} has both H and H0, which is H without its regulariser; keep one"
    return "" if parts == sorted_parts else f"arm {arm} is written {'+'.join(sorted_parts)}"


def arm_settings(arm: str) -> dict[str, Value]:
    """What an arm fixes in the config."""
    if arm == "baseline":
        return {"weight_decay": 0.0}
    return {"classifier": "hierarchical"} if {"H", "H0"} & set(arm.split("+")) else {}


def needed_parts(field: str) -> tuple[str, ...]:
    """The parts of an arm, of which one must be there for a field to exist; empty for a field that all arms have."""
    owner = regulariser_of(field)
    return (owner,) if owner else CONDITIONS.get(field, ())


def exists_in(field: str, arm: str) -> bool:
    """Whether a config field means anything in an arm."""
    parts = needed_parts(field)
    return not parts or bool(set(parts) & set(arm.split("+")))


OWN_KEYS = ("seed", "data_hash", "tree_hash", "weights_hash", "regularisers")
"""Config fields that a study sets by other means: `seeds`, the prepared data, and regularisers' fields one by one."""


def config_keys() -> set[str]:
    """The config fields that a study may set: the config's own and those of registered regularisers."""
    return set(TrainConfig.model_fields) - set(OWN_KEYS) | set(regulariser_fields())


def _config_key(key: str) -> str:
    if key in OWN_KEYS:
        raise ValueError(f"{key} cannot be set here" + ("; use the study's `seeds`" if key == "seed" else ""))
    if key not in config_keys():
        raise ValueError(unknown_name("config field", key, config_keys()))
    return key


ConfigKey = Annotated[str, AfterValidator(_config_key)]
Settings = dict[ConfigKey, Value]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Axis(_Part):
    """Values of one searched field, in Ray Tune's words. Exactly one of the four is given."""

    grid: list[Value] | None = Field(default=None, min_length=1)
    """Each of these values, crossed with every other axis."""
    choice: list[Value] | None = Field(default=None, min_length=1)
    """One of these values, drawn anew for each sample."""
    uniform: tuple[float, float] | None = Field(default=None, strict=False)
    """A number between two bounds, drawn evenly."""
    loguniform: tuple[float, float] | None = Field(default=None, strict=False)
    """A number between two bounds above 0, drawn evenly in its logarithm."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("an axis is exactly one of grid, choice, uniform and loguniform")
        for kind in ("uniform", "loguniform"):
            bounds = getattr(self, kind)
            if bounds is not None and not (0 if kind == "loguniform" else float("-inf")) < bounds[0] < bounds[1]:
                raise ValueError(
                    f"{kind}: {list(bounds)} must be two rising bounds" + (" above 0" * (kind == "loguniform"))
                )
        return self


Axes = dict[ConfigKey, Axis]


def _word_or_words(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """One sentence for a union that pydantic would report branch by branch."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError(f"{info.field_name} is {value!r}, but must be a word or a list of words") from None


class Row(_Part):
    """One row of the table, or several: every arm with every metric that it lists."""

    arm: Annotated[str | list[str], WrapValidator(_word_or_words)]
    """An arm, or several: baseline, baseline+l2, E, H, H0, E+H, E+H0, or registered regularisers, joined by +."""
    metric: Annotated[str | list[str] | None, WrapValidator(_word_or_words)] = None
    """The pairwise penalty, or several: a row for each, in this order."""
    name: str | None = Field(default=None, min_length=1)
    """What the table calls the row. Default: the paper's name of the metric, or the arm."""
    set: Settings = {}
    """Config fields of this row."""
    search: Axes = {}
    """Searched axes of this row, beside or instead of the study's."""

    @property
    def arms(self) -> list[str]:
        """The arms as a list."""
        return [self.arm] if isinstance(self.arm, str) else self.arm

    @property
    def metrics(self) -> list[str | None]:
        """The metrics as a list; ``[None]`` where none is named."""
        return list(self.metric) if isinstance(self.metric, list) else [self.metric]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for arm in self.arms:
            if problem := arm_problem(arm):
                raise ValueError(problem)
            for axis in self.search:
                if not exists_in(axis, arm):
                    raise ValueError(
                        f"the axis {axis} does not exist in arm {arm}, only in arms with "
                        f"{' or '.join(needed_parts(axis))}; leave it out or change the arm"
                    )
            if self.metric is not None and not exists_in("metric", arm):
                raise ValueError(f"arm {arm} has no metric, but the row names one; leave `metric` out")
        for metric in self.metrics:
            if metric is not None and metric not in METRICS:
                raise ValueError(unknown_name("metric", metric, METRICS))
        if not self.arms or not self.metrics:
            raise ValueError("a row needs at least one arm, and `metric` is left out or names at least one")
        if self.name is not None and len(self.arms) * len(self.metrics) > 1:
            raise ValueError(f"the name {self.name!r} would stand for several rows; give each its own entry")
        return self


class Column(_Part):
    """One column of the table: a model, a data set, or both."""

    name: str = Field(min_length=1)
    """What the table calls it."""
    set: Settings = {}
    """Config fields of this column."""


class Scheduler(_Part):
    """Early stopping by one of Ray's schedulers, within each cell. Candidates that it stops lose."""

    kind: Literal["asha", "median"]
    """Successive halving (ASHA), or stopping below the running median."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs that every trial is given."""
    reduction_factor: int = Field(default=3, ge=2)
    """ASHA keeps one in this many at each rung."""


def _once_each(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {seeds}, but each may stand only once")
    return seeds


def _named_once(columns: list[Column]) -> list[Column]:
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"columns are named {names}, but each name may stand only once")
    return columns


class Study(_Part):
    """A study: rows × columns of a table, each cell's candidates, and the seeds that they share."""

    title: str = Field(min_length=1)
    """One line: what is compared."""
    reproduces: str = ""
    """Which of the paper's tables, under which protocol."""
    expected: str = ""
    """Numbers that a sound run should come near."""
    cost: str = ""
    """What the whole study takes, and on what."""
    paper_table: int | None = Field(default=None, ge=1, le=6)
    """The paper's table whose numbers stand beside ours."""
    config: Settings = {}
    """The fixed part of every trial's config."""
    rows: list[Row] = Field(min_length=1)
    """The table's rows."""
    columns: Annotated[list[Column], AfterValidator(_named_once)] = Field(min_length=1)
    """The table's columns."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(_once_each)] = Field(min_length=1)
    """Trial seeds, the same for every cell."""
    search: Axes = {}
    """Searched axes; each applies to the arms in which its field exists."""
    samples: int = Field(default=1, ge=1)
    """Draws of the sampled axes (choice, uniform, loguniform) for each point of the grid."""
    search_seed: int = Field(default=0, ge=0)
    """Seed of these draws."""
    rule: Literal["best_validation", "oracle"] = "best_validation"
    """Selection among a cell's candidates: mean validation accuracy, or (chosen on test) mean test accuracy."""
    accuracy: Literal["last", "best_validation", "oracle"] = "last"
    """The epoch whose test accuracy the table shows: the last, the best on validation, or (oracle) the best on test."""
    scheduler: Scheduler | None = None
    """Early stopping; none by default."""


class StudyFile:
    """A study with its name and the file it came from.

    Attributes:
        name: the file's stem, with `@key=value` for every override; letters, digits and `.,_+-@=` alone.
        study: its content.
        document: the file, for the places of mistakes.
    """

    def __init__(self, path: Path, overrides: dict[str, Any] | None = None) -> None:
        """Read and validate a study file.

        Raises:
            UserError: one line per mistake: file, place, value and remedy.
        """
        self.document = Document(path)
        values = dict(self.document.values)
        for key, value in (overrides or {}).items():
            if key in Study.model_fields:
                values[key] = value
            elif isinstance(config := values.get("config") or {}, dict):
                values["config"] = {**config, key: value}
        self.overrides = dict(sorted((overrides or {}).items()))
        self.name = _short_name([_word(path.stem), *(f"{_word(k)}={_word(v)}" for k, v in self.overrides.items())])
        try:
            self.study = Study.model_validate(values)
        except ValidationError as error:
            raise UserError(
                "\n".join(f"{self.place(f.location)}: {_hinted(f)}" for f in findings(error, Study))
            ) from None

    def place(self, location: tuple[int | str, ...]) -> str:
        """Where a value came from: a place in the file, or the command line."""
        key = location[1] if location[:1] == ("config",) and len(location) > 1 else location[0] if location else None
        return f"--set {key}" if key in self.overrides else self.document.place(location)


def _hinted(finding: Finding) -> str:
    """The sentence; for a config field that stands beside `config`, where it belongs."""
    location = finding.location
    if len(location) == 1 and location[0] not in Study.model_fields and location[0] in config_keys():
        return f"{location[0]} is a field of a trial's config: put it under `config:`"
    return finding.sentence


def find_study(name: str, overrides: list[str] | None = None) -> StudyFile:
    """The study of a shipped name or a path, with ``key=value`` overrides.

    Raises:
        UserError: no such study, or a mistake in it.
    """
    shipped = shipped_studies()
    path = shipped.get(name) or Path(name)
    try:
        known = path.is_file()
    except OSError:  # a name too long for any file
        known = False
    if not known:
        raise UserError(f"{unknown_name('study', name, shipped)} (or give the path of a YAML file)")
    values = {}
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {override!r} must read key=value, for instance --set epochs=2")
        values[key.strip()] = parse_value(text)
    return StudyFile(path, values)


def _word(value: Any) -> str:
    """A value as part of a name that is also a folder."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(c if c.isalnum() or c in ".,_+-" else "_" for c in text)


def _short_name(words: list[str]) -> str:
    """The words joined; cut and given a hash where that is too long for a folder."""
    name = "@".join(words)
    return name if len(name) <= 100 else f"{name[:80]}@{hashlib.sha256(name.encode()).hexdigest()[:12]}"

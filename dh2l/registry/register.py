"""Registry of penalties, regularisers and models: built-in ones and users'.

    @penalty("arccos")          # of the cosines of pairs
    def arccos(cos): return -cos.arccos()

    @regulariser("spread")      # of all weight vectors: arm `spread`, field `lambda_spread`
    def spread(vectors, *, power=2.0):
        return sum((w.norm(dim=1) - 1).abs().pow(power).mean() for w in vectors.layers)

    @model("small")             # images (B, C, H, W) to features (B, n_features)
    def small(request): return Backbone(request.in_channels)

Data sets are registered with `dh2l.data.register`. Imports no torch, so that tables can read what
is registered.
"""

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dh2l.errors import UserError
from dh2l.registry.entries import METRICS, MODELS, Model, Penalty

SOURCE = "__dh2l_source__"
"""Global of a plugin's module: the hash of its source."""
RESERVED = ("E", "H", "H0", "baseline", "l2")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
Function = TypeVar("Function", bound=Callable[..., Any])
FieldValue = bool | int | float | str


@dataclass(frozen=True)
class Regulariser:
    """A term of the loss besides E and H.

    Attributes:
        name: the arm's name.
        function: takes the weight vectors (`dh2l.regularisers.weight_vectors.WeightVectors`) and
            `defaults` by keyword; returns a scalar. For a built-in regulariser it is the name
            ``module:function`` of one that is not imported yet.
        defaults: keyword arguments with their defaults, each a config field ``<name>_<argument>``.
        source: hash of the user's source that it comes from; empty for ours.
    """

    name: str
    function: Callable[..., Any] | str
    defaults: dict[str, FieldValue]
    source: str = ""

    @property
    def weight(self) -> str:
        """The config field of its weight."""
        return f"lambda_{self.name}"

    @property
    def fields(self) -> dict[str, FieldValue]:
        """Its config fields with their defaults, the weight first."""
        return {self.weight: 0.0} | {
            f"{self.name}_{argument}": value for argument, value in self.defaults.items()
        }


REGULARISERS: dict[str, Regulariser] = {
    "mma": Regulariser(
        "mma", "dh2l.regularisers.baselines:maximal_minimal_angle", {"scope": "all"}
    ),
    "orthogonality": Regulariser(
        "orthogonality", "dh2l.regularisers.baselines:orthogonality", {"scope": "all"}
    ),
}
"""Regularisers by name: the built-in ones, then those of users in the order of registration."""


RESERVED_FIELDS: set[str] = set()
"""Names of the config's own fields, which no regulariser may use; see `reserve_fields`."""


def penalty(
    name: str, *, label: str | None = None, uses: Sequence[str] = ("cos",), clamp: bool = True
) -> Callable[[Function], Function]:
    """Register a pairwise penalty: a metric of E and H.

    The function takes tensors of one shape, one value for each pair of weight vectors, and returns
    the penalties in that shape. Its slopes must be finite.

    Args:
        name: the key.
        label: its name in tables; default: the key.
        uses: the measures that it takes, in their order: ``cos``, the cosine, and ``h``, the
            agreement of the sign codes (D_h, eq. 8).
        clamp: give the cosine clamped to [−0.99, 0.99] (footnote 6), so that arccos and 1/(1 − cos)
            are finite.

    Raises:
        UserError: a name that is invalid or taken, or an unknown measure.
    """
    _check_name("penalty", name, METRICS)
    if isinstance(uses, str):
        raise UserError(
            f"the penalty {name}: uses is the word {uses!r}; expected a tuple of measures. Pass "
            f"({uses!r},)"
        )
    if not uses or set(uses) - {"cos", "h"} or len(set(uses)) < len(uses):
        raise UserError(
            f"the penalty {name} uses {list(uses)}, but there are the measures cos and h, each once"
        )

    def register(function: Function) -> Function:
        METRICS[name] = Penalty(
            key=name,
            display_label=label or name,
            continuous="cos" in uses,
            discrete="linear" if "h" in uses else None,
            function=function,
            uses=tuple(uses),
            clamp=clamp,
            source=source_of(function),
        )
        return function

    return register


def regulariser(name: str) -> Callable[[Function], Function]:
    """Register a regulariser: a scalar function of the weight vectors, and of keyword arguments.

    It becomes an arm of studies. ``lambda_<name>`` and ``<name>_<argument>`` become config fields
    and axes. Every keyword argument has a default.

    Raises:
        UserError: a name that is invalid or taken, also as a config field, or an argument without a
            plain default.
    """
    _check_name("regulariser", name, REGULARISERS)

    def register(function: Function) -> Function:
        defaults: dict[str, FieldValue] = {}
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if not isinstance(parameter.default, (bool, int, float, str)):
                raise UserError(
                    f"the argument {parameter.name} of the regulariser {name} becomes a config "
                    "field, so it needs a default that is a word, a number or a truth value"
                )
            defaults[parameter.name] = parameter.default
        made = Regulariser(name, function, defaults, source_of(function))
        _check_fields(made, RESERVED_FIELDS | set(regulariser_fields()))
        REGULARISERS[name] = made
        return function

    return register


def reserve_fields(names: Iterable[str]) -> None:
    """Reserve the names of the config's own fields.

    Raises:
        UserError: a registered regulariser uses one of them.
    """
    reserved = set(names)
    for known in REGULARISERS.values():
        _check_fields(known, reserved)
    RESERVED_FIELDS.update(reserved)


def model(name: str) -> Callable[[Function], Function]:
    """Register a model: a function from a `dh2l.models.resnet.BackboneSpec` to a backbone.

    A backbone is a module that maps normalised images ``(B, C, H, W)`` to features ``(B,
    n_features)`` and has the attribute ``n_features``. Its convolutions are those under E.

    Raises:
        UserError: a name that is invalid or taken.
    """
    _check_name("model", name, MODELS)

    def register(function: Function) -> Function:
        MODELS[name] = Model(name, function, source=source_of(function))
        return function

    return register


def regulariser_fields() -> dict[str, FieldValue]:
    """Return the config fields of all registered regularisers, with their defaults."""
    return {
        field: value for known in REGULARISERS.values() for field, value in known.fields.items()
    }


def regulariser_of(field: str) -> str | None:
    """Return the regulariser that a config field belongs to, or None for a field of the config."""
    return next((name for name, known in REGULARISERS.items() if field in known.fields), None)


def source_of(function: Callable[..., Any]) -> str:
    """Return the hash of a user's source that a trial's identity keeps.

    It is empty for our own code, which `NUMERICS` covers.
    """
    home = module_of(function)
    if home.split(".")[0] == "dh2l":
        return ""
    known = vars(sys.modules[home]) if home in sys.modules else {}
    if SOURCE in known:
        return str(known[SOURCE])
    code = getattr(function, "__code__", None)
    try:
        return source_hash(Path(code.co_filename if code else known["__file__"]).read_bytes())
    except (OSError, KeyError):  # typed into an interpreter
        if code is None:
            raise UserError(
                f"the source of {function!r} cannot be read; put it into a file"
            ) from None
        return source_hash(code.co_code + repr((code.co_consts, code.co_names)).encode())


def module_of(function: Callable[..., Any]) -> str:
    """Name of the module that a function, a class or an object that can be called is from."""
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(named.__module__)


def set_sources(package: str, source: str) -> None:
    """Give all that a module or package has registered the hash of the whole of it."""

    def theirs(function: Callable[..., Any] | str | None) -> bool:
        return callable(function) and f"{module_of(function)}.".startswith(f"{package}.")

    METRICS.update({k: replace(v, source=source) for k, v in METRICS.items() if theirs(v.function)})
    REGULARISERS.update(
        {k: replace(v, source=source) for k, v in REGULARISERS.items() if theirs(v.function)}
    )
    MODELS.update({k: replace(v, source=source) for k, v in MODELS.items() if theirs(v.build)})


@contextmanager
def transaction() -> Iterator[None]:
    """Roll back all registrations if the block raises."""
    registries: tuple[dict[str, Any], ...] = (METRICS, REGULARISERS, MODELS)
    before = [dict(known) for known in registries]
    try:
        yield
    except BaseException:
        for known, kept in zip(registries, before, strict=True):
            known.clear()
            known.update(kept)
        raise


def source_hash(source: bytes) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a source."""
    return hashlib.sha256(source).hexdigest()[:12]


def _check_fields(made: Regulariser, taken: Collection[str]) -> None:
    """Refuse a regulariser with the name of another config field."""
    for field in made.fields:
        if field in taken:
            raise UserError(
                f"the regulariser {made.name} would have the config field {field}, which there is "
                "already"
            )


def _check_name(kind: str, name: str, known: dict[str, Any]) -> None:
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"{name!r} cannot name a {kind}: give small letters, digits and _, beginning with a "
            "letter"
        )
    if name in known:
        raise UserError(f"the {kind} {name} is registered already; give yours another name")

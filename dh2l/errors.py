"""Errors of the library.

Dh2lError
├── UserError        something the user wrote or gave is wrong; the message is one clear sentence
│   └── DataError    ... and it is the data: which file, and why
│       └── NotPreparedError  ... because they were never prepared
└── Diverged         training met a number that is not finite
"""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from types import CodeType
from typing import Any

_OTHERS = {
    "lr": "learning_rate learning_rates lrate eta initial_lr base_lr lr_init",
    "lr_final": "eta_min min_lr lr_min final_lr",
    "schedule": "scheduler lr_schedule lr_scheduler lr_decay_schedule",
    "lr_gamma": "gamma lr_decay lr_factor decay_rate",
    "lr_milestones": "milestones lr_steps lr_schedule step_size",
    "warmup_epochs": "warmup warm_up lr_warmup warmup_steps",
    "weight_decay": "wd l2 decay l2_weight lambda_l2 l2_regularization weightdecay",
    "batch_size": "bs batch batchsize minibatch mini_batch train_batch_size",
    "micro_batch": "accumulate grad_accumulation gradient_accumulation_steps accumulation_steps "
    "microbatch",
    "epochs": "n_epochs num_epochs max_epochs nepochs iterations",
    "dataset": "data data_set dataset_name",
    "model": "arch architecture network net backbone model_name",
    "weights": "pretrained checkpoint init_weights",
    "precision": "amp dtype half mixed_precision fp16",
    "compiled": "compile torch_compile",
    "flip": "hflip mirror horizontal_flip random_flip",
    "crop_padding": "padding pad crop random_crop",
    "metric": "penalty distance similarity",
    "lambda_e": "lambda lam lmbda lambda_energy",
    "tree": "hierarchy taxonomy class_tree",
    "seeds": "seed random_seed random_seeds random_state n_seeds",
    "rows": "arms methods",
    "search": "grid axes hyperparameters hyperparams params parameters search_space space",
    "searcher": "optuna sampler tuner search_alg",
    "scheduler": "early_stopping pruner asha",
    "samples": "n_samples num_samples n_trials",
    "extends": "base inherits include parent",
    "title": "name description",
    "grid": "values grid_search",
    "choice": "choices categorical",
    "loguniform": "log_uniform log",
    "when": "if condition only_if depends_on",
}
SYNONYMS = {other: ours for ours, others in _OTHERS.items() for other in others.split()}
"""Our names by those that other libraries and papers use."""


class Dh2lError(Exception):
    """Root of every error that this library raises on purpose."""


class UserError(Dh2lError, ValueError):
    """A mistake of the user's. The message says what came, what was expected and what to do."""


class DataError(UserError):
    """A data set that is missing, damaged or not what its name says. The message names the file."""


class NotPreparedError(DataError):
    """A data set that is nowhere. The message names the command that prepares it."""


class Diverged(Dh2lError):
    """Training met a loss that is not finite.

    Attributes:
        epoch: the epoch, counted from 1, in which it happened.
        term: the term or terms of the loss that were not finite first, e.g. ``"energy"``.
        history: the metrics of the epochs before it, by name.
    """

    def __init__(self, epoch: int, term: str, history: dict[str, list[float | None]]) -> None:
        super().__init__(f"the {term} became non-finite in epoch {epoch}")
        self.epoch = epoch
        self.term = term
        self.history = history


def unknown_name_message(kind: str, name: object, known: Iterable[str]) -> str:
    """Describe a name that is not in a registry, with its synonym, the nearest names, or all.

    >>> unknown_name_message("metric", "cosin", ["cosine", "angular2"])
    "unknown metric 'cosin'; did you mean 'cosine'?"
    >>> unknown_name_message("key", "learning_rate", ["lr", "momentum"])
    "unknown key 'learning_rate'; did you mean 'lr'?"
    """
    names = sorted(known)
    if (meant := synonym(name)) in names:
        return f"unknown {kind} {str(name)!r}; did you mean {meant!r}?"
    by_lower = {n.lower(): n for n in names}
    near = [by_lower[n] for n in get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.6)]
    hint = (
        "did you mean " + " or ".join(repr(n) for n in near) + "?"
        if near
        else "known: " + ", ".join(names)
    )
    return f"unknown {kind} {str(name)!r}; {hint}"


def synonym(name: object) -> str:
    """Our name for what other libraries call otherwise; empty where there is none."""
    return SYNONYMS.get(str(name).lower().replace("-", "_"), "")


def call_user_code(what: str, function: Callable[..., Any], *values: Any, **settings: Any) -> Any:
    """Call a user's function; turn its errors into a sentence that begins with the user's line.

    Raises:
        UserError: it raised.
    """
    try:
        return function(*values, **settings)
    except UserError:
        raise
    except Exception as error:
        code = _code_of(function)
        place = last_location(error, lambda file: code is not None and file == code.co_filename)
        if not place and code is not None:  # it was called with other arguments than it takes
            place = f"{code.co_filename}:{code.co_firstlineno}: "
        raise UserError(
            f"{place}{what} raised {type(error).__name__}: {first_line(error)}"
        ) from error


def last_location(error: BaseException, of: Callable[[str], bool]) -> str:
    """Return the last line of certain files through which an error came, as ``FILE:LINE: ``, or "".

    Args:
        error: the error.
        of: whether a file is one of them.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno}: " for frame in frames if of(frame.filename)]
    return (places or [""])[-1]


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    """Return the code that a function, network module or class runs; None if it is not Python."""
    while isinstance(function, functools.partial):
        function = function.func
    for found in (
        function,
        getattr(function, "forward", None),
        getattr(function, "__init__", None),
    ):
        code = getattr(inspect.unwrap(found), "__code__", None) if callable(found) else None
        if isinstance(code, CodeType):
            return code
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name without one."""
    return (str(error).splitlines() or [type(error).__name__])[0]

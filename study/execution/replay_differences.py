"""Differences between the replay of a trial and its record."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dh2l.wording import counted
from study.records.record import Record, Scores

TIMED = ("history.time", "history.seconds", "history.images_per_s")
"""Arrays of times, in which no two runs agree."""
Arrays: TypeAlias = Mapping[str, np.ndarray]
_Pair: TypeAlias = tuple[str, object, object]
"""A name, the recorded value and the replayed value."""


@dataclass(frozen=True)
class Difference:
    """A difference between a replay and its record.

    Attributes:
        what: name of the value, e.g. ``last.test_accuracy``, ``history.train_loss in epoch 3`` or
            ``commit``.
        recorded: value in the record.
        replayed: value in the replay.
        note: size of the difference, if it has one.
    """

    what: str
    recorded: str
    replayed: str
    note: str = ""


def compare_records(recorded: Record, replayed: Record) -> list[Difference]:
    """Return the differences in the numbers on which two records of a trial must agree."""
    pairs: list[_Pair] = [
        ("state", recorded.state, replayed.state),
        ("parameters", recorded.parameters, replayed.parameters),
    ]
    for which in ("last", "best_validation"):
        pairs += _score_pairs(which, getattr(recorded, which), getattr(replayed, which))
    then, now = recorded.failure, replayed.failure
    if then and now:
        pairs.append(("epoch of divergence", then.epoch, now.epoch))
        pairs.append(("term that diverged", then.term, now.term))
    return [_difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _score_pairs(which: str, then: Scores | None, now: Scores | None) -> list[_Pair]:
    """Return the scores of an epoch side by side, without those that old records lack."""
    if then is None or now is None:
        return [(which, then, now)]
    pairs: list[_Pair] = []
    for name in Scores.model_fields:
        recorded = getattr(then, name)
        if recorded is None and name == "test_probabilities":
            continue  # an earlier version did not keep them
        pairs.append((f"{which}.{name}", recorded, getattr(now, name)))
    return pairs


def _difference(what: str, then: object, now: object) -> Difference:
    note = ""
    if isinstance(then, int | float) and isinstance(now, int | float):
        note = f"{now - then:+.3g}"
    return Difference(what, str(then), str(now), note)


def compare_arrays(then: Arrays, now: Arrays) -> list[Difference]:
    """Return the differences between the arrays of two runs of a trial.

    Arrays that one run lacks come first, then the first epoch in which the history differs, then
    all other arrays. A metric that only the second run has was introduced since, and is not a
    difference.
    """
    names = [name for name in {**then, **now} if _is_compared(name, then)]
    shared = [name for name in names if name in then and name in now]
    found = [
        Difference(name, _presence(name, then), _presence(name, now))
        for name in names
        if name not in shared
    ]
    history = [name for name in shared if name.startswith("history.")]
    found += _compare_history({name: (then[name], now[name]) for name in history})
    for name in shared:
        if name not in history:
            found += _compare_values(name, then[name], now[name])
    return found


def _is_compared(name: str, then: Arrays) -> bool:
    if name in TIMED:
        return False
    return name in then or not name.startswith("history.")


def _presence(name: str, arrays: Arrays) -> str:
    return "there" if name in arrays else "not there"


def _compare_values(name: str, then: np.ndarray, now: np.ndarray) -> list[Difference]:
    """Compare two arrays bit for bit, so that NaN agrees with itself."""
    if then.shape != now.shape or then.dtype != now.dtype:
        return [Difference(name, f"{then.dtype} {then.shape}", f"{now.dtype} {now.shape}")]
    if then.tobytes() == now.tobytes():
        return []
    note = ""
    if then.dtype.kind == "f":
        largest = float(np.abs(then - now).max())
        note = f"by ≤ {largest:.3g}"
    n_unequal = int((then != now).sum())
    return [Difference(name, f"{then.size} of them", f"{n_unequal} others", note)]


def _compare_history(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Difference]:
    """Return metrics of unequal length, and those that differ in the first epoch with any."""
    found: list[Difference] = []
    for name, (then, now) in pairs.items():
        if len(then) != len(now):
            found.append(Difference(name, counted(len(then), "epoch"), counted(len(now), "epoch")))
    epochs = min((min(map(len, pair)) for pair in pairs.values()), default=0)
    for epoch in range(epochs):
        of_epoch: list[Difference] = []
        for name, (then, now) in pairs.items():
            a, b = float(then[epoch]), float(now[epoch])
            if _differ(name, a, b):
                what = f"{name} in epoch {epoch + 1}"
                of_epoch.append(Difference(what, repr(a), repr(b), f"{b - a:+.3g}"))
        if of_epoch:
            return found + of_epoch
    return found


def _differ(name: str, a: float, b: float) -> bool:
    """Return whether two values of an epoch differ.

    The runs may have evaluated the test set after different epochs.
    """
    if name.startswith("history.test_") and (math.isnan(a) or math.isnan(b)):
        return False
    return a != b and not (math.isnan(a) and math.isnan(b))


def compare_circumstances(
    recorded: Record, replayed: Record, here: dict[str, Any]
) -> list[Difference]:
    """Return the differences between the recorded circumstances and those of the replay.

    Args:
        recorded: the record.
        replayed: the record of the replay.
        here: CPU, device and threads of the replay.
    """
    then, now = recorded.provenance, replayed.provenance
    pairs: list[_Pair] = [("commit", then.commit, now.commit)]
    if then.dirty or now.dirty:
        changes = f"{now.dirty} (what they are is not recorded)"
        pairs.append(("uncommitted changes", then.dirty, changes))
    pairs += [
        (name, then.versions.get(name), now.versions.get(name))
        for name in sorted({**then.versions, **now.versions})
    ]
    if then.attempts:
        for name in ("cpu", "device", "threads"):
            values = dict.fromkeys(str(a[name]) for a in then.attempts if name in a)
            pairs.append((name, ", then ".join(values) or None, str(here[name])))
    else:
        pairs.append(("cpu", then.hardware.get("cpu"), here["cpu"]))
    pairs.append(("attempts", max(1, len(then.attempts)), 1))
    return [Difference(name, str(a), str(b)) for name, a, b in pairs if a != b]

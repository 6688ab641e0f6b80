"""The harness from Python: the functions that `import study` offers."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from dh2l.io.files import AnyPath
    from dh2l.plugins import Plugin
    from dh2l.training.saved_networks import TrainedNetwork
    from study.execution.run import RunOutcome
    from study.formats import FrameKind
    from study.records.paths import Places
    from study.records.record import Record
    from study.reporting.page import Page
    from study.state.results import StudyResults
    from study.state.study_state import StudyState

CALLER = 4
"""Frames between a warning of an opened study and the user's line."""


def run(
    study: str | Path,
    *,
    overrides: Sequence[str] = (),
    results: str | AnyPath | None = None,
    data: str | Path | None = None,
    plugins: Sequence[str | Path] | None = None,
    track: bool = True,
    **options: Any,
) -> RunOutcome:
    """Train what a study misses, as the command `run` does. Run again, it trains what is missing.

    Args:
        study: a shipped study's name, or a file.
        overrides: changes of the study's values, each ``key=value``.
        results: folder of records and tables; default: `DH2L_RESULTS`, or ``results``.
        data: folder of prepared data sets; default: `DH2L_DATA`, or ``data``.
        plugins: users' code that the study needs; default: `DH2L_PLUGINS`, or none.
        track: whether MLflow shows the run.
        options: further fields of `study.execution.run.RunOptions`, e.g. ``max_failures=3``.

    Returns:
        How the run ended, and the evaluated study.

    Raises:
        UserError: a mistake in the study or the options, data that are not prepared, a check that
            failed, or a cluster that cannot be reached.
    """
    from study.execution.run import RunOptions, run_study

    paths = _paths(results, data)
    _check_options(options)
    known = RunOptions(
        str(study), tuple(_words("overrides", overrides)), _plugins(plugins), **options
    )
    outcome = run_study(known, paths, _display(), _tracker(paths) if track else None)
    if outcome.tracker is not None:
        outcome.tracker.close(outcome.results)
        for sentence in filter(None, [*outcome.tracker.notes, outcome.tracker.problem]):
            warnings.warn(sentence, stacklevel=2)
    return outcome


def plan(
    study: str | Path,
    *,
    overrides: Sequence[str] = (),
    results: str | AnyPath | None = None,
    data: str | Path | None = None,
    plugins: Sequence[str | Path] | None = None,
) -> StudyState:
    """Return a study's plan and the states of its trials; trains nothing.

    Raises:
        UserError: a mistake in the study; data that are not prepared.
    """
    return _open(study, overrides, results, data, plugins).state


def table(
    study: str | Path,
    *,
    overrides: Sequence[str] = (),
    results: str | AnyPath | None = None,
    data: str | Path | None = None,
    plugins: Sequence[str | Path] | None = None,
) -> Page:
    """Return a study's tables, complete or not; a notebook shows them, `print` gives Markdown.

    Raises:
        UserError: a mistake in the study; data that are not prepared.
    """
    from study.reporting.tables import render

    return render(_open(study, overrides, results, data, plugins))


def frame(
    study: str | Path,
    of: FrameKind = "cells",
    *,
    overrides: Sequence[str] = (),
    results: str | AnyPath | None = None,
    data: str | Path | None = None,
    plugins: Sequence[str | Path] | None = None,
) -> pd.DataFrame:
    """Return a study's results, complete or not, as a tidy frame; trains nothing.

    Args:
        study: a shipped study's name, or a file.
        of: the thing that a row describes: one of the `cells`, `trials` or `epochs`. The columns
            are those of `study.analysis.frames.cell_frame`, `trial_frame` and `epoch_frame`.
        overrides: changes of the study's values, each ``key=value``.
        results: folder of records and tables; default: `DH2L_RESULTS`, or ``results``. A warning
            says so where nothing is there.
        data: folder of prepared data sets; default: `DH2L_DATA`, or ``data``.
        plugins: users' code that the study needs; default: `DH2L_PLUGINS`, or none.

    Raises:
        UserError: a mistake in the study; data that are not prepared; an unknown `of`; a string
            where a list of strings is expected.
    """
    from dh2l.errors import UserError, unknown_name_message
    from study.analysis.frames import FRAMES

    if of not in FRAMES:
        raise UserError(unknown_name_message("frame", of, FRAMES))
    return FRAMES[of](_open(study, overrides, results, data, plugins))


def load_records(
    study: str | Path,
    *,
    overrides: Sequence[str] = (),
    results: str | AnyPath | None = None,
    data: str | Path | None = None,
    plugins: Sequence[str | Path] | None = None,
) -> dict[str, Record]:
    """Return the records of a study's trials, by identity.

    Raises:
        UserError: a mistake in the study; data that are not prepared.
    """
    state = _open(study, overrides, results, data, plugins).state
    found = state.found.records
    return {identity: found[identity] for identity in state.states if identity in found}


def network(
    identity: str,
    *,
    results: str | AnyPath | None = None,
    plugins: Sequence[str | Path] | None = None,
) -> TrainedNetwork:
    """Return the trained network of a trial whose files were kept (`keep=True`), ready to evaluate.

    Args:
        identity: the trial's, or a part of it that only one record has.
        results: folder of records; default: `DH2L_RESULTS`, or ``results``.
        plugins: users' code that its model needs; default: `DH2L_PLUGINS`, or none.

    Raises:
        UserError: no record or several match; the weights were not kept, or cannot be read.
    """
    from dh2l.errors import UserError
    from dh2l.training.saved_networks import load_network, path_in
    from study.records.lookup import find_record

    _plugins(plugins)
    paths = _paths(results, None)
    record, _ = find_record(identity, paths)
    whole = record.identity
    path = path_in(paths.checkpoint(whole))
    if not path.exists():
        raise UserError(
            f"the weights of {whole} were not kept; expected {path}. Train it with keep=True, or "
            "`run --keep`"
        )
    return load_network(path)


def _open(
    study: str | Path,
    overrides: Sequence[str],
    results: str | AnyPath | None,
    data: str | Path | None,
    plugins: Sequence[str | Path] | None,
) -> StudyResults:
    from study.state.load import open_study
    from study.state.results import StudyResults

    words = _words("overrides", overrides)
    _plugins(plugins)
    paths = _paths(results, data)
    if not paths.trials.exists():
        warnings.warn(
            f"there are no records under {paths.trials}; pass `results`, or set DH2L_RESULTS",
            stacklevel=3,
        )

    def warn(sentence: str) -> None:
        warnings.warn(sentence, stacklevel=CALLER)

    return StudyResults(
        open_study(str(study), words, paths, note=lambda _: None, warn=warn, check_arrays=True)
    )


def _paths(results: str | AnyPath | None, data: str | Path | None) -> Places:
    from study.records.paths import Places

    return Places.of(
        results or os.environ.get("DH2L_RESULTS") or "results",
        data or os.environ.get("DH2L_DATA") or "data",
    )


def _plugins(plugins: Sequence[str | Path] | None) -> tuple[Plugin, ...]:
    from dh2l import plugins as users

    if plugins is None:
        named = os.environ.get("DH2L_PLUGINS", "").split(os.pathsep)
        plugins = [name for name in named if name]
    return tuple(users.load(str(plugin)) for plugin in _words("plugins", plugins))


def _words(name: str, words: Sequence[str | Path]) -> list[Any]:
    """Refuse a single string, of which each character would be taken for a string."""
    from dh2l.errors import UserError

    if isinstance(words, (str, os.PathLike)):
        raise UserError(
            f"{name} is the string {str(words)!r}; expected a list of strings. Pass "
            f"[{str(words)!r}]"
        )
    return list(words)


def _check_options(options: dict[str, Any]) -> None:
    from dataclasses import fields

    from dh2l.errors import UserError, unknown_name_message
    from study.execution.run import RunOptions

    own = ("study", "overrides", "plugins")
    known = [field.name for field in fields(RunOptions) if field.name not in own]
    for name in options:
        if name not in known:
            raise UserError(unknown_name_message("option of a run", name, known))


def _display() -> Any:
    from study.execution.display import Display

    class Warnings(Display):
        def warn(self, sentence: str) -> None:
            warnings.warn(sentence, stacklevel=CALLER)

    return Warnings()


def _tracker(paths: Places) -> Any:
    def track(state: StudyState) -> Any:
        from study.tracking.live import LiveView
        from study.tracking.run_names import TrialNames

        return LiveView(paths, state.plan.name, TrialNames.of_plan(state.plan))

    return track

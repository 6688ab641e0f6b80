"""The command that trains a study: run."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dh2l.errors import UserError
from dh2l.wording import counted
from study.cli.console import COMPLETE, SOME_FAILED, WAITING, err, interrupted, out
from study.cli.options import (
    DATA,
    RESULTS,
    AddressOption,
    CpusOption,
    DataOption,
    GpusOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    TrialsPerGpuOption,
    gpu_share,
    load_plugins,
)
from study.cli.report import ReportOption, write_report
from study.records.paths import Places
from study.tracking.uri import store_name

if TYPE_CHECKING:
    from study.execution.display import Tracker
    from study.execution.run import RunOutcome
    from study.execution.shards import Shard
    from study.reporting.page import Page
    from study.state.study_state import StudyState


def run(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    address: AddressOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = None,
    trials_per_gpu: TrialsPerGpuOption = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="H",
            help="Train nothing where the estimate of what is missing exceeds this.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Train only the I-th of N shares, in this process, without Ray."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="First let each model, data set, arm and metric take one training step.",
        ),
    ] = True,
    max_failures: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop, as Ctrl-C does, once N trials have failed."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the checkpoints of finished trials, and their weights."),
    ] = False,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Evaluate the test set after every N-th epoch; default: at most 30 times a trial.",
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities/--no-probabilities",
            help="Keep the predicted probabilities in a file each.",
        ),
    ] = True,
    track: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Show the run in MLflow.")
    ] = True,
    report: ReportOption = False,
) -> None:
    """Train what a study misses, then print its table. Run again, it trains the rest."""
    from study.cli.run_display import RunDisplay
    from study.execution.run import RunOptions, run_study
    from study.reporting.tables import render

    places = Places.of(results, data)
    share = _shard(shard)
    gpus_per_trial, measure = gpu_share(cpus_per_trial, gpus_per_trial, trials_per_gpu)
    options = RunOptions(
        study,
        tuple(set_ or ()),
        load_plugins(plugin),
        address,
        cpus_per_trial,
        gpus_per_trial,
        measure,
        max_gpu_hours,
        share,
        check,
        max_failures,
        keep,
        evaluate_every,
        probabilities,
    )
    outcome = run_study(options, places, RunDisplay(), _tracker_of(places) if track else None)
    page = render(outcome.results)
    _print(page)
    if outcome.tracker is not None:
        _close(outcome.tracker, outcome)
    files = _saved(outcome, page, places)
    later = {
        "sync": ["mlflow", "sync", *_again(study, set_, results, data, plugin)],
        "ui": ["ui", *_where(results)],
    }
    tracker = outcome.tracker
    _closing(
        places, files, tracker.problem if tracker else None, later, tracked=tracker is not None
    )
    if report:
        tracked = tracker is not None and not tracker.problem
        path = write_report(outcome.results, places, track=tracked)
        out.print(f"report:  {path}", markup=False)
    raise _exit(outcome)


def _tracker_of(places: Places) -> "Callable[[StudyState], Tracker]":
    def track(state: "StudyState") -> "Tracker":
        from study.tracking.live import LiveView
        from study.tracking.run_names import TrialNames

        return LiveView(places, state.plan.name, TrialNames.of_plan(state.plan))

    return track


def _close(tracker: "Tracker", outcome: "RunOutcome") -> None:
    with out.status("finishing the MLflow view"):
        tracker.close(outcome.results)
    for sentence in tracker.notes:
        err.print(f"[yellow]warning:[/yellow] {escape(sentence)}")


def _print(page: "Page") -> None:
    """Print the table: folded on a terminal, as Markdown elsewhere."""
    from study.cli.terminal_tables import print_page
    from study.reporting.page import to_markdown

    out.print()
    if out.is_terminal:
        print_page(page)
        out.print()
    else:
        out.print(to_markdown(page), markup=False)


def _saved(outcome: "RunOutcome", page: "Page", places: Places) -> dict[str, Path]:
    """Save what a run leaves beside its records; return the table's files."""
    from study.reporting.page import save
    from study.state.changes import note_wanted

    state = outcome.results.state
    folder = places.table(state.plan.name)
    try:
        note_wanted(state, places)  # a searcher's trials too
        return save(page, folder)
    except OSError as error:
        if outcome.ending != "interrupted":
            raise
        err.print(f"the table is not saved under {folder}: {error.strerror}")
        raise interrupted() from None


def _exit(outcome: "RunOutcome") -> typer.Exit:
    """Say why a run has not come to its end; return the exit to raise."""
    if outcome.ending == "failure limit":
        failed = counted(outcome.failed, "trial")
        err.print(f"stopped, because {failed} failed; run the same command again to go on")
        return typer.Exit(SOME_FAILED)
    if outcome.ending == "interrupted":
        return interrupted()
    if outcome.ending == "waiting":
        cells = counted(len(outcome.waiting), "cell")
        err.print(
            f"this share is trained, but {cells} cannot choose yet, because trials of other shares "
            "are missing, so nothing confirms the choice. Run the same command again when the "
            "other shares have ended."
        )
        return typer.Exit(WAITING)
    return typer.Exit(COMPLETE if outcome.ending == "complete" else SOME_FAILED)


def _shard(text: str | None) -> "Shard | None":
    from study.execution.shards import Shard

    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {text!r} must read I/N with 1 ≤ I ≤ N, for instance --shard 1/4")
    return Shard(int(index), int(count))


def _again(
    study: str, overrides: list[str] | None, results: str, data: Path, plugins: list[Path] | None
) -> list[str]:
    """Return the arguments by which another command means the same study, results and data."""
    words = [study, *(word for override in overrides or [] for word in ("--set", override))]
    words += _where(results)
    words += [] if str(data) == os.environ.get("DH2L_DATA", str(DATA)) else ["--data", str(data)]
    given = [] if "DH2L_PLUGINS" in os.environ else plugins or []
    return words + [word for plugin in given for word in ("--plugin", str(plugin))]


def _where(results: str) -> list[str]:
    return [] if results == os.environ.get("DH2L_RESULTS", RESULTS) else ["--results", results]


def _closing(
    places: Places,
    files: dict[str, Path],
    problem: str | None,
    later: dict[str, list[str]],
    *,
    tracked: bool,
) -> None:
    program = "dh2l-study" if shutil.which("dh2l-study") else f"{sys.executable} -m study"
    lines = [
        f"records: {places.trials}",
        f"table:   {files['markdown']} and {files['csv'].name}",
    ]
    if problem:
        lines.append(
            f"MLflow:  not complete ({problem}); later: {program} {shlex.join(later['sync'])}"
        )
    elif tracked:
        lines.append(
            f"MLflow:  {store_name(places)}; to open its UI: {program} {shlex.join(later['ui'])}"
        )
    for line in lines:
        out.print(line, markup=False)

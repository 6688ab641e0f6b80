"""Commands that train: run, trial."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dh2l.errors import UserError
from study.cli.common import (
    DATA,
    INTERRUPTED,
    RESULTS,
    SOME_FAILED,
    AddressOption,
    CpusOption,
    DataOption,
    GpusOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    TrialsPerGpuOption,
    check_device,
    counts,
    err,
    gpu_share,
    load_plugins,
    load_standing,
    out,
    plan_line,
    styled,
)
from study.cli.report import ReportOption, write_report
from study.places import Places

if TYPE_CHECKING:
    from study.running import Shard


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
        typer.Option(min=0.0, metavar="H", help="Train nothing where the estimate of what is missing exceeds this."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Train only the I-th of N shares, in this process, without Ray."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="First let each model, data set, arm and metric take one training step."
        ),
    ] = True,
    max_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop, as Ctrl-C does, once N trials have failed.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the checkpoints of finished trials.")] = False,
    track: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Show the run in MLflow.")] = True,
    report: ReportOption = False,
) -> None:
    """Train what a study misses, then render its table. Run again, it trains only what is missing."""
    from study import tables
    from study.changes import note_wanted
    from study.cost import require_within
    from study.interrupt import FailureLimit, Interrupt
    from study.observer import Observers
    from study.progress import RunProgress
    from study.running import (
        cost_to_come,
        in_order,
        let_go,
        measured_share,
        missing_trials,
        run_here,
        run_plan,
        trials_to_come,
        trials_to_search,
    )
    from study.selection import evaluate_cell
    from study.standing import standing

    places = Places.of(results, data)
    share = _shard(shard)
    if share and (address or gpus_per_trial is not None or trials_per_gpu or max_gpu_hours is not None):
        raise UserError(
            "--shard trains in this process, without Ray, so --address, --gpus-per-trial, --trials-per-gpu and "
            "--max-gpu-hours do not go with it"
        )
    gpus_per_trial, measure_share = gpu_share(cpus_per_trial, gpus_per_trial, trials_per_gpu)
    plugins = load_plugins(plugin)
    now = load_standing(study, set_, places, write=True)
    if share:
        if trials_to_search(now):
            raise UserError(
                "--shard trains a fixed share of a plan, but a searcher makes this one as it goes; leave it out"
            )
        everything = [
            *now.plan.configs,
            *now.plan.confirmations,
        ]  # not only those chosen so far: a share stays the same
        missing = in_order(now, [i for i in share.of(everything) if i in now.missing])
    else:
        missing = missing_trials(now)
    out.print(f"{plan_line(now.plan)} {counts(now)}.")
    done = len(now.states) - len(now.missing)
    progress = RunProgress(out, done, len(now.states) + trials_to_come(now), missing)
    limit = FailureLimit(max_failures, progress)
    live, interrupted = None, False
    try:
        if (missing or trials_to_come(now)) and not share:
            out.print("starting Ray ...")
            from study.cluster import Resources  # before the view's thread imports MLflow: each would slow the other

            resources = Resources(address, cpus_per_trial, gpus_per_trial, plugins, keep)
            if max_gpu_hours is not None:
                if measure_share:
                    resources, measure_share = measured_share(now, places, resources, progress), False
                require_within(cost_to_come(now, places, resources, progress), max_gpu_hours, now.plan.name)
        if track and not share:
            from study.live import LiveView

            live = LiveView(places, now.plan.name)
        with progress.shown():
            if share:
                threads = max(1, int(cpus_per_trial))
                watched = Observers([progress, limit])
                with Interrupt(progress.note) as asked:
                    run_here(
                        missing,
                        places,
                        watched,
                        threads=threads,
                        keep=keep,
                        limit=limit,
                        stop=lambda: asked.raised,
                    )
            elif missing or trials_to_come(now):
                observer = Observers([progress, limit, live] if live else [progress, limit])
                words = {"measure_share": measure_share, "check": check}
                interrupted = run_plan(now, places, resources, observer, **words, limit=limit)
    except KeyboardInterrupt:
        interrupted = True
    except UserError:
        if live:
            live.close(standing(now.plan, places))
        raise
    now = standing(now.plan, places)
    let_go(now, places, keep=keep)
    page = tables.render(now)
    out.print(f"\n{tables.to_markdown(page)}", markup=False)
    if live:
        live.close(now)
    try:
        note_wanted(now, places)  # a searcher's trials too
        files = tables.save(page, places.table(now.plan.name))
    except OSError as error:
        if not interrupted:
            raise
        err.print(f"the table is not saved under {places.table(now.plan.name)}: {error.strerror}")
        raise _interrupted() from None
    later = {"sync": ["mlflow", "sync", *_again(study, set_, results, data, plugin)], "ui": ["ui", *_where(results)]}
    _closing(places, files, live.problem if live else None, later, tracked=live is not None)
    if report:
        path = write_report(now, places, track=live is not None and not live.problem)
        out.print(f"report:  {path}", markup=False)
    if limit.reached:
        err.print(f"stopped, for {limit.failed} trials failed; run the same command again to go on")
        raise typer.Exit(SOME_FAILED)
    if interrupted:
        raise _interrupted()
    if share:
        mine = {config.identity for config in missing} | {*share.of(everything)} & {*now.found.conflicts}
        complete = not mine & {*now.missing, *now.found.conflicts}
    else:
        complete = not any(evaluate_cell(cell, now).problem for cell in now.plan.cells)
    if not complete:
        raise typer.Exit(SOME_FAILED)


def trial(
    study: StudyArgument,
    identity: Annotated[str, typer.Argument(metavar="ID", help="A trial's identity, or enough of it to be unique.")],
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: 1, as under `run`.")] = 1,
    device: Annotated[str | None, typer.Option(help="A torch device; default: the GPU where there is one.")] = None,
) -> None:
    """Train one trial in this process, without Ray or MLflow. Leaves the same record as `run`."""
    places = Places.of(results, data)
    load_plugins(plugin)
    now = load_standing(study, set_, places, write=True)
    config = now.plan.config(_find_trial(identity, list(now.states)))
    if now.states[config.identity] == "conflict":
        raise UserError(now.found.conflicts[config.identity])
    check_device(device)

    from study.interrupt import Interrupt
    from study.progress import epoch_line
    from study.trial import drain, run_trial

    record = now.found.records.get(config.identity)
    if record is None or not record.settled:
        training = run_trial(config, places, device=device, threads=threads)
        try:
            with Interrupt(err.print) as asked:
                record = drain(
                    training,
                    lambda epoch: out.print(epoch_line(config, epoch)),
                    err.print,
                    lambda: asked.raised,
                )
        except KeyboardInterrupt:
            raise _interrupted() from None
    if record.last is None:
        reason = record.failure.message if record.failure else "no reason is recorded"
        outcome = f"{styled(record.state)}: {escape(reason)}"
    else:
        outcome = f"{styled(record.state)}: test {100 * record.last.test_accuracy:.2f}%"
    path = now.found.paths.get(config.identity, places.trials / f"{config.identity}.json")
    out.print(f"{outcome}\nrecord: {escape(str(path))}")
    if record.last is None:
        raise typer.Exit(SOME_FAILED)


def _interrupted() -> typer.Exit:
    err.print("interrupted; run the same command again to go on")
    return typer.Exit(INTERRUPTED)


def _shard(text: str | None) -> "Shard | None":
    from study.running import Shard

    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {text!r} must read I/N with 1 ≤ I ≤ N, for instance --shard 1/4")
    return Shard(int(index), int(count))


def _find_trial(text: str, identities: list[str]) -> str:
    matches = [i for i in identities if text in i]
    if text in identities or len(matches) == 1:
        return text if text in identities else matches[0]
    if matches:
        raise UserError(
            f"{text!r} fits {len(matches)} trials, among them {matches[0]} and {matches[1]}; give more of it"
        )
    raise UserError(f"unknown trial {text!r}; `dh2l-study plan STUDY` lists the study's trials")


def _again(study: str, overrides: list[str] | None, results: str, data: Path, plugins: list[Path] | None) -> list[str]:
    """The words that another command needs to mean the same study in the same places."""
    words = [study, *(word for override in overrides or [] for word in ("--set", override))]
    words += _where(results)
    words += [] if str(data) == os.environ.get("DH2L_DATA", str(DATA)) else ["--data", str(data)]
    given = [] if "DH2L_PLUGINS" in os.environ else plugins or []
    return words + [word for plugin in given for word in ("--plugin", str(plugin))]


def _where(results: str) -> list[str]:
    return [] if results == os.environ.get("DH2L_RESULTS", RESULTS) else ["--results", results]


def _closing(
    places: Places, files: dict[str, Path], problem: str | None, later: dict[str, list[str]], *, tracked: bool
) -> None:
    program = "dh2l-study" if shutil.which("dh2l-study") else f"{sys.executable} -m study"
    lines = [
        f"records: {places.trials}",
        f"table:   {files['markdown']} and {files['csv'].name}",
    ]
    if problem:
        lines.append(f"MLflow:  not complete ({problem}); later: {program} {shlex.join(later['sync'])}")
    elif tracked:
        lines.append(f"MLflow:  {places.store_name}; to open its UI: {program} {shlex.join(later['ui'])}")
    for line in lines:
        out.print(line, markup=False)

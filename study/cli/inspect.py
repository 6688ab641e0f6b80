"""Commands that look: list, plan, status, table, export, schema."""

import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dh2l.atomic import write_atomically
from dh2l.errors import UserError
from study import Format, Of
from study.cli.common import (
    DATA,
    RESULTS,
    AddressOption,
    CpusOption,
    DataOption,
    GpusOption,
    JsonOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    TrialsPerGpuOption,
    counts,
    err,
    gpu_share,
    load_plugins,
    load_standing,
    out,
    plan_line,
    print_json,
    styled,
)
from study.cli.cost import estimate_values, print_estimate
from study.places import Places, shipped_studies


def list_studies(as_json: JsonOption = False) -> None:
    """List the shipped studies."""
    from study.studyfile import StudyFile

    rows = [(name, StudyFile(path).study) for name, path in shipped_studies().items()]
    if as_json:
        print_json([{"name": name, "title": s.title, "cost": s.cost} for name, s in rows])
        return
    table = Table("study", "title", "cost", box=None)
    for name, study in rows:
        table.add_row(name, study.title, study.cost)
    out.print(table)


def plan(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    as_json: JsonOption = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Time some seconds of each kind of trial, and say what all will cost.")
    ] = False,
    address: AddressOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = None,
    trials_per_gpu: TrialsPerGpuOption = None,
) -> None:
    """Show a study's trials and which of them are done. Trains nothing."""
    from study.changes import changes
    from study.running import cost_to_come, measured_share, missing_trials, trials_to_come

    gpus_per_trial, measure_share = gpu_share(cpus_per_trial, gpus_per_trial, trials_per_gpu)
    plugins, places = load_plugins(plugin), Places.of(results, data)
    now = load_standing(study, set_, places)
    since = changes(now, places)
    cost = None
    if estimate and (missing_trials(now) or trials_to_come(now)):
        started = time.perf_counter()
        from study.cluster import Resources
        from study.progress import RunProgress

        loading_s = time.perf_counter() - started
        progress = RunProgress(err, 0, 0, [])
        resources = Resources(address, cpus_per_trial, gpus_per_trial, plugins)
        if measure_share:
            resources = measured_share(now, places, resources, progress)
        cost = cost_to_come(now, places, resources, progress, loading_s=loading_s)
    if as_json:
        print_json(
            {
                "study": now.plan.name,
                "combinations": now.plan.combinations,
                "counts": now.counts,
                "trials": [
                    {"identity": i, "state": state.value, "config": now.plan.config(i).canonical()}
                    for i, state in now.states.items()
                ],
                "since_last_run": since and asdict(since),
                **({"estimate": cost and estimate_values(cost)} if estimate else {}),
            }
        )
        return
    out.print(plan_line(now.plan))
    edited = since if since and (since.new or since.unwanted) else None
    new = set(edited.new if edited else ())
    table = Table("trial", "state", *(["since the last run"] if edited else []), box=None)
    for identity, state in now.states.items():
        table.add_row(identity, styled(state.value), *(["new" if identity in new else "kept"] if edited else []))
    out.print(table)
    to_run, to_come = missing_trials(now), trials_to_come(now)
    later = f", then at most {to_come} that depend on their results" if to_come else ""
    out.print(f"{counts(now)}; `run` would train {len(to_run)} ({sum(c.epochs for c in to_run)} epochs){later}")
    if edited:
        numbers = f"{len(edited.new)} new, {len(edited.kept)} kept, {len(edited.unwanted)} no longer wanted"
        out.print(f"since the last run: {numbers}")
        for identity in edited.unwanted:
            out.print(f" {identity}  no longer wanted; a record of it stays")
    if cost:
        out.print()
        print_estimate(cost)
    elif estimate:
        out.print("nothing is left to train, so nothing to estimate")


def status(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    as_json: JsonOption = False,
) -> None:
    """Show how far a study is, what runs now, and what failed and why."""
    from study.claims import Claims

    load_plugins(plugin)
    places = Places.of(results, data)
    now = load_standing(study, set_, places)
    claims = Claims(places.claims)
    running = {i: claim for i, s in now.states.items() if s == "running" and (claim := claims.read(i))}
    failures = {i: r.failure for i, r in now.found.records.items() if r.failure}
    if as_json:
        print_json(
            {
                "study": now.plan.name,
                "counts": now.counts,
                "running": {i: claim.model_dump() for i, claim in running.items()},
                "failures": {i: failure.model_dump() for i, failure in failures.items()},
            }
        )
        return
    out.print(f"{now.plan.name}: {counts(now)} of {len(now.states)} trials")
    for i, claim in running.items():
        accuracy = "" if claim.validation_accuracy is None else f", validation {100 * claim.validation_accuracy:.2f}%"
        owner = f"process {claim.pid} on {escape(claim.host)}"
        out.print(f"  running {i}: epoch {claim.epoch}/{claim.epochs}{accuracy} ({owner})")
    for i, failure in failures.items():
        out.print(
            f"  {now.states[i]} {i}: {escape(f'{failure.kind}: {failure.message}')}",
        )
        if failure.log:
            out.print(f"    {escape(str(places.log(i)))} ends: {escape(failure.log[-1])}")


def table(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    csv: Annotated[bool, typer.Option("--csv", help="Print the cells as CSV.")] = False,
) -> None:
    """Render a study's accuracy table from the records, complete or not; also into the results folder."""
    from study import tables

    load_plugins(plugin)
    places = Places.of(results, data)
    now = load_standing(study, set_, places)
    page = tables.render(now)
    if places.trials.exists():
        with suppress(OSError):  # to look at results that cannot be written is no mistake
            places.claim_name(now.plan.name, now.plan.file.document.path)
            tables.save(page, places.table(now.plan.name))
    text = page.frame.to_csv(index=False) if csv else tables.to_markdown(page)
    out.print(text, end="", markup=False)


def export(
    study: StudyArgument,
    kind: Annotated[
        Format,
        typer.Option("--format", help="Rendered tables: md, latex, html. A tidy frame: csv, json, parquet."),
    ] = "md",
    of: Annotated[
        Of, typer.Option("--of", help="What a row of a frame is: one of the cells, trials or epochs.")
    ] = "cells",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; default: standard output.")] = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
) -> None:
    """Give a study's tables, or the numbers behind them, in the format of a paper or a notebook."""
    from study.exports import FRAME_FORMATS, exported

    if of != "cells" and kind not in FRAME_FORMATS:
        raise UserError(
            f"--of {of} is a frame, so --format must be {', '.join(FRAME_FORMATS[:-1])} or parquet, not {kind}"
        )
    if kind == "parquet" and output is None:
        raise UserError("parquet is no text to print; give a file, for instance --output cells.parquet")
    load_plugins(plugin)
    content = exported(load_standing(study, set_, Places.of(results, data)), kind, of)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        write_atomically(output, content)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error.strerror})") from None
    out.print(f"{output}: {len(content)} bytes", markup=False)


def schema(plugin: PluginOption = None) -> None:
    """Print the JSON Schema of study files, with which editors complete and check them."""
    from study.schema import study_schema

    load_plugins(plugin)
    print_json(study_schema())

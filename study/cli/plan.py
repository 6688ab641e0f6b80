"""Command `plan`."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from dh2l.errors import NotPreparedError
from dh2l.wording import counted
from study.cli.console import counts, note, out, plan_line, print_json, print_table, styled
from study.cli.options import (
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
    gpu_share,
    load_plugins,
    load_state,
)
from study.records.paths import Places

if TYPE_CHECKING:
    from study.spec.study_file import StudyFile
    from study.spec.trials import Cell
    from study.state.changes import Changes
    from study.state.study_state import StudyState

CELL_COLUMNS = ("metric", "arm", "column", "candidates", "trials", "done", "others")
NUMBER_COLUMNS = ("candidates", "trials", "done")


def plan(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    as_json: JsonOption = False,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Time each kind of trial for some seconds, and estimate the cost."
        ),
    ] = False,
    trials: Annotated[
        bool, typer.Option("--trials", help="List each trial with its state.")
    ] = False,
    address: AddressOption = None,
    cpus_per_trial: CpusOption = 1.0,
    gpus_per_trial: GpusOption = None,
    trials_per_gpu: TrialsPerGpuOption = None,
) -> None:
    """Show the cells of a study, their trials, and how many are done. Trains nothing.

    If the data are not prepared, the command only counts the trials.
    """
    from study.cli.estimate import estimate_values, measured_estimate, print_estimate
    from study.state.changes import changes

    gpus_per_trial, measure = gpu_share(cpus_per_trial, gpus_per_trial, trials_per_gpu)
    plugins, places = load_plugins(plugin), Places.of(results, data)
    try:
        state = load_state(study, set_, places)
    except NotPreparedError as error:
        file = _shipped_data_only(study, set_, places)
        if file is None or estimate or trials:
            raise
        _print_count(file, str(error), as_json=as_json)
        return
    since, cost = changes(state, places), None
    if estimate:
        resources = (address, cpus_per_trial, gpus_per_trial, plugins)
        cost = measured_estimate(state, places, resources, measure_share=measure)
    if as_json:
        values = _plan_values(state, since)
        if estimate:
            values["estimate"] = cost and estimate_values(cost)
        print_json(values)
        return
    _print_plan(state, since, every_trial=trials)
    if cost:
        out.print()
        print_estimate(cost)
    elif estimate:
        out.print("No trials are left to train, so there is nothing to estimate.")


def _shipped_data_only(
    study: str, overrides: list[str] | None, places: Places
) -> "StudyFile | None":
    """Return the file of a study whose missing data sets all ship; another name may be a typo."""
    from dh2l.data import DATA_SETS
    from study.spec.study_file import find_study

    file = find_study(study, overrides)
    missing = [name for name in file.datasets if not (places.data / name).exists()]
    return file if set(missing) <= set(DATA_SETS) else None


def _plan_values(state: "StudyState", since: "Changes | None") -> dict[str, Any]:
    """Return a plan as JSON values."""
    from study.execution.tally import tally_of

    trials = [
        {
            "identity": identity,
            "state": its_state.value,
            "config": state.plan.config(identity).canonical(),
        }
        for identity, its_state in state.states.items()
    ]
    return {
        "study": state.plan.name,
        "combinations": state.plan.combinations,
        "counts": state.counts,
        "total": tally_of(state).total,
        "trials": trials,
        "since_last_run": since and asdict(since),
    }


def _print_plan(state: "StudyState", since: "Changes | None", *, every_trial: bool) -> None:
    """Print a plan as text.

    Args:
        state: the plan and the states of its trials.
        since: the changes since the last run, if there was one.
        every_trial: list trials instead of cells.
    """
    from study.execution.scheduling import next_trials
    from study.state.remaining import trials_to_come

    out.print(plan_line(state), markup=False)
    edited = since if since and (since.new or since.unwanted) else None
    print_table(_trial_table(state, edited) if every_trial else _cell_table(state))
    missing, later = next_trials(state), trials_to_come(state)
    epochs = counted(sum(config.epochs for config in missing), "epoch")
    line = f"{counts(state)}; `run` would train {counted(len(missing), 'trial')} ({epochs})"
    if later:
        line += f", then at most {later} that depend on their results"
    out.print(line)
    if edited:
        new, kept, removed = len(edited.new), len(edited.kept), len(edited.unwanted)
        out.print(f"since the last run: {new} new, {kept} kept, {removed} removed")
    if edited and every_trial:
        for identity in edited.unwanted:
            out.print(f" {identity}  removed; its record is kept")
    if not every_trial:
        out.print("--trials lists each trial")


def _print_count(file: "StudyFile", problem: str, *, as_json: bool) -> None:
    """Print the number of trials of a study, counted from its file.

    Args:
        file: the study.
        problem: the reason for which there is no plan.
        as_json: print JSON.
    """
    from study.spec.count import count_cells, count_trials

    cells, study = count_cells(file), file.study
    size = count_trials(file, cells)
    if as_json:
        listed = [{**cell.key._asdict(), "candidates": cell.n_candidates} for cell in cells]
        print_json({"study": file.name, **asdict(size), "cells": listed, "no_plan": problem})
        return
    line = f"{file.name}: {counted(size.choosing, 'trial')} in {counted(len(cells), 'cell')}"
    if study.confirm:
        line += f", then {counted(size.confirming, 'trial')} that confirm"
    out.print(f"{line}.", markup=False)
    table = Table("metric", "arm", "column", box=None, pad_edge=False)
    table.add_column("candidates", justify="right")
    for cell in cells:
        known = str(cell.n_candidates) if cell.budget is None else f"≤ {cell.budget}"
        table.add_row(*map(escape, cell.key.words), known)
    print_table(table)
    seeds = counted(len(study.seeds), "seed")
    out.print(f"{seeds} per candidate; identities and states are unknown without the data")
    note(problem)


def _trial_table(state: "StudyState", edited: "Changes | None") -> Table:
    new = set(edited.new if edited else ())
    table = Table("trial", "state", box=None, pad_edge=False)
    if edited:
        table.add_column("since the last run")
    for identity, its_state in state.states.items():
        row = [identity, styled(its_state.value)]
        if edited:
            row.append("new" if identity in new else "kept")
        table.add_row(*row)
    return table


def _cell_table(state: "StudyState") -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in CELL_COLUMNS:
        if heading in NUMBER_COLUMNS:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    for cell in state.plan.cells:
        candidates = str(len(cell.candidates)) if cell.budget is None else f"≤ {cell.budget}"
        table.add_row(*map(escape, cell.key.words), candidates, *_trial_columns(cell, state))
    return table


def _trial_columns(cell: "Cell", state: "StudyState") -> tuple[str, str, str]:
    """Format a cell's numbers of trials and of done trials, and the other states."""
    from study.state.states import State

    choosing, confirming, later = _trials_of(cell, state)
    states = Counter(
        state.states[identity] for identity in (*choosing, *confirming) if identity in state.states
    )
    done = states.pop(State.DONE, 0)
    states.pop(State.PLANNED, None)
    trials = str(len(choosing))
    if state.study.confirm:
        trials = f"{trials} + {len(confirming) + later}"
    others = ", ".join(f"{n} {styled(its_state.value)}" for its_state, n in sorted(states.items()))
    return trials, str(done), others


def _trials_of(cell: "Cell", state: "StudyState") -> tuple[list[str], list[str], int]:
    """Return the trials that choose, those that confirm, and the number of unknown ones.

    A trial that confirms is unknown until a configuration is selected.
    """
    choosing = [identity for candidate in cell.candidates for identity in candidate.trials]
    selected = state.choices[cell.key].candidate
    confirm = state.study.confirm
    later = len(confirm.seeds) if confirm and state.awaits_choice(cell) else 0
    return list(dict.fromkeys(choosing)), list(selected.confirmations) if selected else [], later

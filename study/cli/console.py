"""Output of the commands: consoles, exit codes and shared phrases."""

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dh2l.wording import counted

if TYPE_CHECKING:
    from study.state.study_state import StudyState

COMPLETE, SOME_FAILED, MISTAKE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes. A shard waits while cells lack trials of other shards for their selection."""
MAX_WIDTH = 10_000
"""Characters per line of a table that goes to a pipe or file."""
STATE_COLOURS = {
    "done": "green",
    "failed": "red",
    "diverged": "red",
    "conflict": "red",
    "running": "cyan",
}

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def warn(message: str) -> None:
    """Print a warning to stderr."""
    err.print(f"[yellow]warning:[/yellow] {escape(message)}")


def note(message: str) -> None:
    """Print a note to stderr."""
    err.print(f"[yellow]note:[/yellow] {escape(message)}")


def print_error(message: str) -> None:
    """Print the error that ends a command to stderr."""
    err.print(f"[bold red]error:[/bold red] {escape(message)}")


def interrupted() -> typer.Exit:
    """Print that a command was interrupted, and return the exit to raise."""
    err.print("interrupted. Run the same command again to resume.")
    return typer.Exit(INTERRUPTED)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


def print_table(table: Table) -> None:
    """Print a table, folded to the width of a terminal; elsewhere, lines keep their full width."""
    if not out.is_terminal:
        table.width = out.measure(table, options=out.options.update(width=MAX_WIDTH)).maximum
    out.print(table)


def styled(state: str) -> str:
    """Return the markup of a trial state in its colour."""
    colour = STATE_COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def counts(state: "StudyState") -> str:
    """Format the number of trials in each state, e.g. ``12 done, 2 failed``."""
    return ", ".join(f"{n} {name}" for name, n in state.counts.items())


def plan_line(state: "StudyState") -> str:
    """Format the size of a plan.

    Example: ``quickstart: 29 trials in 7 cells: 8 that choose, 21 that confirm on 3 fresh seeds.``
    """
    from study.execution.tally import tally_of
    from study.state.remaining import trials_to_come, trials_to_search

    plan, study = state.plan, state.study
    planned, searched = len(plan.choosing), trials_to_search(state)
    line = f"{plan.name}: {tally_of(state)} in {counted(len(plan.cells), 'cell')}"
    if study.confirm:
        confirming = len(state.states) - planned + trials_to_come(state) - searched
        seeds = counted(len(study.confirm.seeds), "fresh seed")
        line += f": {planned + searched} that choose, {confirming} that confirm on {seeds}"
    shared = plan.combinations - planned
    if shared:
        line += f"; {counted(shared, 'trial')} shared by cells and counted once"
    budget = sum(cell.budget or 0 for cell in plan.cells)
    if budget:
        seeds = counted(len(study.seeds), "seed")
        line += f"; a search of {counted(budget, 'configuration')} with {seeds} each"
    return f"{line}."

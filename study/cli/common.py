"""What the commands share: options, consoles, and a study read into its plan and states."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from study.places import Places

if TYPE_CHECKING:
    from dh2l.plugins import Plugin
    from study.plan import Plan
    from study.states import Standing

COMPLETE, SOME_FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study's name, or a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one of the study's values, e.g. epochs=2."),
]
ResultsOption = Annotated[Path, typer.Option("--results", envvar="DH2L_RESULTS", help="Folder of records and tables.")]
DataOption = Annotated[Path, typer.Option("--data", envvar="DH2L_DATA", help="Folder of prepared data sets.")]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE|MODULE",
        envvar="DH2L_PLUGINS",
        help="Run a user's code first, which registers penalties, regularisers, models or data sets.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RESULTS, DATA = Path("results"), Path("data")


def load_plugins(names: list[Path] | None) -> tuple["Plugin", ...]:
    """Load users' plugins, in their order."""
    from dh2l import plugins

    return tuple(plugins.load(str(name)) for name in names or [])


def load_standing(study: str, overrides: list[str] | None, places: Places, *, write: bool = False) -> "Standing":
    """A study's plan and the states of its trials; says what is wrong with records."""
    from study.opening import open_study

    def warn(sentence: str) -> None:
        err.print(f"[yellow]warning:[/yellow] {escape(sentence)}")

    def note(sentence: str) -> None:
        err.print(f"[yellow]note:[/yellow] {escape(sentence)}")

    return open_study(study, overrides, places, note=note, warn=warn, write=write)


def plan_line(plan: "Plan") -> str:
    """How a study expands, e.g. ``quickstart: 18 combinations → 18 trials in 7 cells.``"""
    line = f"{plan.name}: {plan.combinations} combinations → {len(plan.configs)} trials in {len(plan.cells)} cells"
    budget = sum(cell.budget or 0 for cell in plan.cells)
    line += f"; {budget} configurations to search, with {len(plan.file.study.seeds)} seeds each" if budget else ""
    confirm = plan.file.study.confirm
    return line + (f"; {len(confirm.seeds)} fresh seeds confirm each cell." if confirm else ".")


def counts(now: "Standing") -> str:
    """Trials by state, e.g. ``12 done, 2 failed``."""
    return ", ".join(f"{n} {state}" for state, n in now.counts.items())


def styled(state: str) -> str:
    """A state in its colour."""
    colour = {"done": "green", "failed": "red", "diverged": "red", "conflict": "red", "running": "cyan"}.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)

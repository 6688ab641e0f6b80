"""What the commands share: options, consoles, and a study read into its plan and states."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dh2l.errors import UserError
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
ResultsOption = Annotated[
    str, typer.Option("--results", envvar="DH2L_RESULTS", help="Folder of records and tables, or s3://BUCKET/PLACE.")
]
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
AddressOption = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster; default: Ray on this machine.")
]
CpusOption = Annotated[float, typer.Option(min=0.01, help="CPUs, and so threads, of a trial.")]
GpusOption = Annotated[
    float | None, typer.Option(min=0.0, help="GPUs of a trial, fractions allowed; default: 1 where there are any.")
]
TrialsPerGpuOption = Annotated[
    str | None,
    typer.Option(metavar="N|auto", help="Trials side by side on each GPU; auto measures how many are fastest."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RESULTS, DATA = "results", Path("data")


def load_plugins(names: list[Path] | None) -> tuple["Plugin", ...]:
    """Load users' plugins, in their order."""
    from dh2l import plugins

    return tuple(plugins.load(str(name)) for name in names or [])


def gpu_share(
    cpus_per_trial: float, gpus_per_trial: float | None, trials_per_gpu: str | None
) -> tuple[float | None, bool]:
    """GPUs of a trial, and whether that is to be measured."""
    if not math.isfinite(cpus_per_trial) or (gpus_per_trial is not None and not math.isfinite(gpus_per_trial)):
        raise UserError("--cpus-per-trial and --gpus-per-trial must be finite numbers")
    if trials_per_gpu is None:
        return gpus_per_trial, False
    if gpus_per_trial is not None:
        raise UserError("--gpus-per-trial and --trials-per-gpu say the same in two ways; keep one of them")
    if trials_per_gpu == "auto":
        return None, True
    if not trials_per_gpu.isdecimal() or not 1 <= int(trials_per_gpu) <= 100:
        raise UserError(f"--trials-per-gpu {trials_per_gpu!r} must be a number from 1 to 100, or auto")
    return 1 / int(trials_per_gpu), False


def check_device(name: str | None) -> None:
    """Refuse a torch device that is none, or is not here."""
    import torch

    try:
        if name is not None and torch.device(name).type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"--device {name}: torch sees no CUDA device on this machine; leave it out, or give cpu")
    except RuntimeError:
        raise UserError(f"--device {name!r} is no torch device; give cpu, cuda or cuda:1") from None


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

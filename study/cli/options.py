"""Options that commands share, and the objects that they denote."""

import glob
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dh2l.errors import UserError
from study.cli.console import note, warn
from study.records.paths import Places, expanded

if TYPE_CHECKING:
    from dh2l.plugins import Plugin
    from study.state.study_state import StudyState

PATHS, RESOURCES = "Paths", "Resources"
"""Groups of options in the help."""
RESULTS, DATA = "results", Path("data")
"""Default folders."""
MAX_TRIALS_PER_GPU = 100


def _study_names(incomplete: str) -> list[str]:
    """Complete the name of a shipped study or the path of a YAML file."""
    from study.spec.study_file import shipped_studies

    names = [name for name in shipped_studies() if name.startswith(incomplete)]
    folders = [f"{path}/" for path in glob.glob(f"{glob.escape(incomplete)}*/")]
    return [*names, *glob.glob(f"{glob.escape(incomplete)}*.yaml"), *folders]


StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="Name of a shipped study, or a YAML file.",
        autocompletion=_study_names,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value of the study, e.g. epochs=2."
    ),
]
ResultsOption = Annotated[
    str,
    typer.Option(
        "--results",
        envvar="DH2L_RESULTS",
        help="Folder of records and tables, or s3://BUCKET/PREFIX.",
        rich_help_panel=PATHS,
    ),
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="DH2L_DATA",
        metavar="PATH",
        parser=expanded,
        help="Folder of prepared data sets.",
        rich_help_panel=PATHS,
    ),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE|MODULE",
        envvar="DH2L_PLUGINS",
        help="Run user code first that registers penalties, regularisers, models or data sets.",
        rich_help_panel=PATHS,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Ray cluster; default: Ray on this machine.",
        rich_help_panel=RESOURCES,
    ),
]
CpusOption = Annotated[
    float,
    typer.Option(min=0.01, help="CPUs, and threads, per trial.", rich_help_panel=RESOURCES),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="GPUs per trial, also fractions; default: 1 on machines with GPUs.",
        rich_help_panel=RESOURCES,
    ),
]
TrialsPerGpuOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Concurrent trials per GPU; auto measures the fastest number.",
        rich_help_panel=RESOURCES,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdentityArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="Identity of a trial, or a unique part of it."),
]


def examples(*lines: str) -> str:
    """Return the end of a command's help: one line per example."""
    title = "Examples:" if len(lines) > 1 else "Example:"
    return "\n\n".join([title, *lines])


def load_plugins(names: list[Path] | None) -> tuple["Plugin", ...]:
    """Load the plugins in the given order."""
    from dh2l import plugins

    return tuple(plugins.load(str(name)) for name in names or [])


def load_state(
    study: str, overrides: list[str] | None, places: Places, *, check_arrays: bool = False
) -> "StudyState":
    """Load a study with the states of its trials, and print notes and warnings about records."""
    from study.state.load import open_study

    return open_study(study, overrides, places, note=note, warn=warn, check_arrays=check_arrays)


def gpu_share(
    cpus_per_trial: float, gpus_per_trial: float | None, trials_per_gpu: str | None
) -> tuple[float | None, bool]:
    """Return the GPUs per trial, and whether to measure their number.

    Raises:
        UserError: an option is invalid, or two options contradict each other.
    """
    for option, value in (
        ("--cpus-per-trial", cpus_per_trial),
        ("--gpus-per-trial", gpus_per_trial),
    ):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{option} {value}: expected a finite number.")
    if trials_per_gpu is None:
        return gpus_per_trial, False
    if gpus_per_trial is not None:
        raise UserError(
            "--gpus-per-trial and --trials-per-gpu set the same value; expected one. Remove one."
        )
    if trials_per_gpu == "auto":
        return None, True
    if not trials_per_gpu.isdecimal() or not 1 <= int(trials_per_gpu) <= MAX_TRIALS_PER_GPU:
        raise UserError(
            f"--trials-per-gpu {trials_per_gpu!r}: expected a number from 1 to "
            f"{MAX_TRIALS_PER_GPU}, or auto."
        )
    return 1 / int(trials_per_gpu), False


def check_device(name: str | None) -> None:
    """Check that torch has a device.

    Raises:
        UserError: the name is invalid, or the device is missing.
    """
    import torch

    if name is None:
        return
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise UserError(
            f"--device {name!r}: not a torch device; expected e.g. cpu, cuda or cuda:1."
        ) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch finds no CUDA device on this machine. Remove the option, or "
            "pass cpu."
        )

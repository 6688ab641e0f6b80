"""The command line: `dh2l-study`. Heavy libraries are imported by the commands that need them."""

import io
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer
from rich.markup import escape

from dh2l.errors import UserError, first_line
from study.cli import (
    analysis,
    data,
    doctor,
    export,
    mlflow,
    plan,
    replay,
    report,
    run,
    show,
    status,
    studies,
    table,
    template,
    trial,
)
from study.cli.console import MISTAKE, err, out
from study.cli.options import examples

WORK, LOOK, TAKE, PREPARE = "Train", "Look", "Take along", "Prepare"
"""Groups of commands in the help."""

HELP_WIDTH = "120"
"""Characters of a line of help that goes to a pipe or file."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare regularisers on hierarchies of hyperspheres: from study file to accuracy table.",
    epilog=examples(
        "dh2l-study list",
        "dh2l-study run quickstart",
        "dh2l-study init my_study",
        "dh2l-study COMMAND --help",
    ),
)


def _command(
    function: Callable[..., None], group: str, *lines: str, name: str | None = None
) -> None:
    app.command(name, rich_help_panel=group, epilog=examples(*lines) if lines else None)(function)


_command(
    run.run,
    WORK,
    "dh2l-study run quickstart",
    "dh2l-study run table2 --address 10.0.0.1:6379 --trials-per-gpu auto",
)
_command(trial.trial, WORK, "dh2l-study trial quickstart E-cosine-e0.1-s0")
_command(replay.replay, WORK, "dh2l-study replay E-cosine-e0.1-s0")
_command(studies.list_studies, LOOK, name="list")
_command(
    plan.plan,
    LOOK,
    "dh2l-study plan table2",
    "dh2l-study plan quickstart --set epochs=2 --trials",
    "dh2l-study plan my_study.yaml --estimate",
)
_command(status.status, LOOK, "dh2l-study status quickstart")
_command(show.show, LOOK, "dh2l-study show E-cosine-e0.1-s0")
_command(
    table.table,
    LOOK,
    "dh2l-study table quickstart",
    "dh2l-study table quickstart --csv > cells.csv",
)
_command(analysis.compare, LOOK, "dh2l-study compare quickstart E+H0 E+H")
_command(analysis.importance, LOOK, "dh2l-study importance table2")
_command(mlflow.ui, LOOK, "dh2l-study ui --port 5001")
_command(
    export.export,
    TAKE,
    "dh2l-study export quickstart --format latex -o table.tex",
    "dh2l-study export quickstart --format parquet --of epochs -o epochs.parquet",
)
_command(report.report, TAKE, "dh2l-study report quickstart")
_command(studies.init, PREPARE, "dh2l-study init my_study")
_command(studies.schema, PREPARE, "dh2l-study schema > study.schema.json")
_command(
    doctor.doctor,
    PREPARE,
    "dh2l-study doctor quickstart",
    "dh2l-study doctor table2 --address 10.0.0.1:6379 --nodes 4",
)
_command(template.template, PREPARE, "dh2l-study template", "dh2l-study template slurm > slurm.sh")
app.add_typer(data.app, name="data", rich_help_panel=PREPARE)
app.add_typer(mlflow.app, name="mlflow", rich_help_panel=TAKE)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"dh2l-study {version('dh2l-study')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options before a command."""


def _widen_help() -> None:
    """Print help and usage errors at full width to pipes and files; a narrow one cuts names."""
    asked = len(sys.argv) == 1 or bool({"-h", "--help"} & set(sys.argv))
    if not (sys.stdout if asked else sys.stderr).isatty():
        os.environ.setdefault(
            "TERMINAL_WIDTH", HELP_WIDTH
        )  # Typer reads it when it first prints help


def main() -> None:
    """Run a command. A user's mistake becomes a sentence on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a terminal or file that cannot have λ or ± gets ? for it
            stream.reconfigure(errors="replace")
    _widen_help()
    try:
        app(standalone_mode=True)
    except UserError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}")
        sys.exit(MISTAKE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (
        OSError
    ) as error:  # a disk that is full, a store that does not answer: no mistake of the code
        what = (
            f"{error.filename}: {error.strerror}"
            if error.filename
            else error.strerror or str(error)
        )
        what = _plugin_line(error) + what
        err.print(
            f"[bold red]error:[/bold red] {escape(what)}; mend it and run the same command again: "
            "records stay"
        )
        sys.exit(MISTAKE)
    except Exception as error:
        place = _plugin_line(error)
        if not place:
            raise
        said = f"{place}the plugin raised {type(error).__name__}: {first_line(error)}"
        err.print(f"[bold red]error:[/bold red] {escape(said)}")
        sys.exit(MISTAKE)


def _plugin_line(error: Exception) -> str:
    """Return the line of a user's code through which an error came, or an empty string."""
    from dh2l.plugins import plugin_location

    return plugin_location(error)

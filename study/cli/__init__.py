"""The command line: `dh2l-study`. Heavy libraries are imported by the commands that need them."""

import io
import os
import sys

import typer
from rich.markup import escape

from dh2l.errors import UserError
from study.cli import again, analyse, data, doctor, inspect, report, template, train, view
from study.cli.common import MISTAKE, err

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compare regularisers on hierarchies of hyperspheres: from a study file to an accuracy table.",
)
app.command("list")(inspect.list_studies)
app.command()(inspect.plan)
app.command()(train.run)
app.command()(train.trial)
app.command()(again.replay)
app.command()(inspect.status)
app.command()(inspect.table)
app.command()(inspect.export)
app.command()(report.report)
app.command()(analyse.compare)
app.command()(analyse.importance)
app.command()(inspect.schema)
app.command()(view.ui)
app.command()(doctor.doctor)
app.command()(template.template)
app.add_typer(data.app, name="data")
app.add_typer(view.app, name="mlflow")


def main() -> None:
    """Run a command. A user's mistake becomes a sentence on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file that cannot have λ or ± gets ? for it
            stream.reconfigure(errors="replace")
    try:
        app(standalone_mode=True)
    except UserError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}")
        sys.exit(MISTAKE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a disk that is full, a store that does not answer: no mistake of the code
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        err.print(f"[bold red]error:[/bold red] {escape(what)}; mend it and run the same command again: records stay")
        sys.exit(MISTAKE)

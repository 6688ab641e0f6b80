"""Command that prints templates for clusters: template."""

from importlib import resources
from typing import Annotated

import typer

from dh2l.errors import UserError, unknown_name_message
from study.cli.console import out


def template(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A template's name; without it, they are listed."),
    ] = None,
) -> None:
    """Print a template that runs studies on a cluster; without a name, list the templates."""
    folder = resources.files("study.cli") / "cluster_templates"
    known = {
        entry.name.partition(".")[0]: entry
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
    }
    if name is None:
        for key, entry in known.items():
            head = next(
                line
                for line in entry.read_text(encoding="utf-8").splitlines()
                if line.startswith("# ")
            )
            out.print(f"{key:<12} {head.removeprefix('# ')}", markup=False)
    elif name in known:
        typer.echo(known[name].read_text(encoding="utf-8"), nl=False)
    else:
        raise UserError(unknown_name_message("template", name, known))

"""Commands about study files: list, init, schema."""

import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dh2l.errors import UserError
from study.cli.console import out, print_json, print_table
from study.cli.options import JsonOption, PluginOption, load_plugins
from study.records.paths import expanded

FIRST = ("quickstart", "planted")
"""The studies that come first in the list, because anybody can run them."""
WITH_TITLES = 130
"""Columns of a terminal beside which titles have room too."""


def list_studies(as_json: JsonOption = False) -> None:
    """List the shipped studies: trials, data sets, cost."""
    from study.spec.count import count_trials
    from study.spec.study_file import StudyFile, shipped_studies

    paths = shipped_studies()
    files = [
        StudyFile(paths[name]) for name in [*FIRST, *(name for name in paths if name not in FIRST)]
    ]
    if as_json:
        print_json(
            [
                {
                    "name": f.name,
                    "title": f.study.title,
                    "cost": f.study.cost,
                    "datasets": f.datasets,
                    **vars(count_trials(f)),
                }
                for f in files
            ]
        )
        return
    titled = not out.is_terminal or out.width >= WITH_TITLES
    table = Table(box=None, pad_edge=False)
    table.add_column("study", no_wrap=True)
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("data", max_width=20 if out.is_terminal else None)
    table.add_column("cost")
    if titled:
        table.add_column("title")
    for file in files:
        size = count_trials(file)
        trials = f"{size.choosing} + {size.confirming}" if size.confirming else str(size.choosing)
        short = file.study.cost.partition(":")[0]
        title = [file.study.title] if titled else []
        table.add_row(file.name, trials, ", ".join(file.datasets), short, *title)
    print_table(table)
    out.print("Trials: those that choose + those that confirm. --json has titles and whole costs.")


def init(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="The study's name, or the path of its file.")
    ],
) -> None:
    """Write a commented study file to start from; a file that is there stays."""
    from dh2l.io.files import create_atomically
    from study.spec.study_file import shipped_studies

    name = expanded(name)
    path = name if name.suffix in (".yaml", ".yml") else name.with_name(f"{name.name}.yaml")
    if path.stem in shipped_studies():
        raise UserError(
            f"{path.stem}: a shipped study has this name; expected another. Choose a name of your "
            "own."
        )
    text = (
        resources.files("study.cli").joinpath("templates", "study.yaml").read_text(encoding="utf-8")
    )
    try:
        created = create_atomically(path, text.replace("NAME", str(path)).encode())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Choose another place."
        ) from None
    if not created:
        raise UserError(
            f"{path}: there is a file already; expected a new one. Choose another name, or remove "
            "it."
        )
    out.print(f"{path}: edit it, then: dh2l-study plan {shlex.quote(str(path))}", markup=False)


def schema(plugin: PluginOption = None) -> None:
    """Print the JSON Schema of study files, with which editors complete and check them."""
    from study.spec.json_schema import study_schema

    load_plugins(plugin)
    print_json(study_schema())

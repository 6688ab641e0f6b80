"""The command that writes a study's report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dh2l.errors import UserError
from study.cli.common import (
    DATA,
    RESULTS,
    DataOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    err,
    load_plugins,
    load_standing,
    out,
)
from study.places import Places

if TYPE_CHECKING:
    from study.states import Standing

ReportOption = Annotated[bool, typer.Option("--report", help="Write the study's report too, as `report` does.")]


def report(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    track: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Log it to MLflow with the study, where there is a store.")
    ] = True,
) -> None:
    """Write one HTML page about a study from the records: tables, figures, failures, provenance."""
    places = Places.of(results, data)
    load_plugins(plugin)
    now = load_standing(study, set_, places)
    places.require_writable()
    places.claim_name(now.plan.name, now.plan.file.document.path)
    path = write_report(now, places, track=track and places.has_store)
    out.print(f"report: {path}", markup=False)


def write_report(now: "Standing", places: Places, *, track: bool) -> Path:
    """Write the page beside the table; a store of MLflow that refuses it costs a warning, not the page."""
    from study.report import save_report

    path = save_report(now, places.table(now.plan.name))
    if track:
        from study.tracking import log_report

        try:
            log_report(now, places, path)
        except UserError as error:
            err.print(f"[yellow]warning:[/yellow] the report is written, but {escape(str(error))}")
    return path

"""The command that writes a study's report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dh2l.errors import UserError
from study.cli.console import err, out
from study.cli.options import (
    DATA,
    RESULTS,
    DataOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    load_plugins,
    load_state,
)
from study.records.paths import Places
from study.tracking.uri import store_exists

if TYPE_CHECKING:
    from study.state.results import StudyResults

ReportOption = Annotated[
    bool, typer.Option("--report", help="Write the study's report too, as `report` does.")
]


def report(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    track: Annotated[
        bool,
        typer.Option(
            "--mlflow/--no-mlflow", help="Log it to MLflow with the study, where there is a store."
        ),
    ] = True,
) -> None:
    """Write one HTML page about a study from the records: tables, figures, failures, provenance."""
    from study.spec.study_file import claim_name
    from study.state.results import StudyResults

    places = Places.of(results, data)
    load_plugins(plugin)
    state = load_state(study, set_, places, check_arrays=True)
    places.require_writable()
    claim_name(state.plan.file, places)
    path = write_report(StudyResults(state), places, track=track and store_exists(places))
    out.print(f"report: {path}", markup=False)


def write_report(results: "StudyResults", places: Places, *, track: bool) -> Path:
    """Write the page beside the table, and warn where MLflow's store refuses it."""
    from study.reporting.html import save_report

    path = save_report(results, places.table(results.plan.name))
    if track:
        from study.tracking.operations import log_report

        try:
            log_report(results, places, path)
        except UserError as error:
            err.print(f"[yellow]warning:[/yellow] the report is written, but {escape(str(error))}")
    return path

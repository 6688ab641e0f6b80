"""Commands about the MLflow view: ui, mlflow sync."""

import os
import socket
import sys
from typing import Annotated

import typer
from rich.markup import escape

from dh2l.errors import UserError
from dh2l.wording import counted
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
from study.cli.report import ReportOption, write_report
from study.records.paths import Places
from study.tracking.uri import is_local, store_exists, store_file, store_name, tracking_uri


def warn(sentence: str) -> None:
    """Say what is waited for, and what had to be mended."""
    err.print(f"[yellow]warning:[/yellow] {escape(sentence)}")


app = typer.Typer(no_args_is_help=True, help="The MLflow view of the records.")


def ui(
    results: ResultsOption = RESULTS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Serve the MLflow UI on 127.0.0.1 with this project's store, until Ctrl-C."""
    places = Places.of(results, DATA)
    if not is_local():
        raise UserError(
            "MLFLOW_TRACKING_URI is set, so the runs are in a store of their own "
            f"({store_name(places)}); open its UI, or unset the variable to serve the local store"
        )
    if not store_exists(places):
        raise UserError(
            f"there is no MLflow store at {store_file(places)} yet; run a study first, or "
            "`dh2l-study mlflow sync STUDY`"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror}); give another with --port"
            ) from None
    from study.tracking.operations import view_links

    address = f"http://127.0.0.1:{port}"
    out.print(f"MLflow UI: {address} (up in about half a minute; Ctrl-C ends it)")
    for name, link in view_links(places, warn).items():
        out.print(f"  {name}: {address}{link}", markup=False)
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    words = f"-m mlflow server --host 127.0.0.1 --port {port} --workers 1".split()
    stores = [
        "--backend-store-uri",
        tracking_uri(places),
        "--artifacts-destination",
        (places.mlflow / "artifacts").as_uri(),
    ]
    command = [sys.executable, *words, *stores]
    os.chdir(
        places.mlflow
    )  # Python and the server import from the working folder first, where a user's files may be
    os.execve(sys.executable, command, environment)  # noqa: S606 our own fixed words


@app.command("sync")
def mlflow_sync(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    report: ReportOption = False,
) -> None:
    """Make a study's MLflow view from its records. Twice is the same as once."""
    from study.spec.study_file import claim_name

    places = Places.of(results, data)
    load_plugins(plugin)
    state = load_state(study, set_, places, check_arrays=True)
    places.require_writable()
    claim_name(state.plan.file, places)
    from study.state.results import StudyResults
    from study.tracking.operations import sync_study

    evaluated = StudyResults(state)
    sync_study(evaluated, places, warn)
    if report:
        write_report(evaluated, places, track=True)
    records, cells = (
        counted(len(state.found.records), "record"),
        counted(len(state.plan.cells), "cell"),
    )
    line = f"{state.plan.name}: {records}, {cells}; {store_name(places)}"
    out.print(line, markup=False)

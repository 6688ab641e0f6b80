"""Commands about the MLflow view: ui, mlflow sync."""

import os
import socket
import sys
from typing import Annotated

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
from study.cli.report import ReportOption, write_report
from study.places import Places

app = typer.Typer(no_args_is_help=True, help="The MLflow view of the records.")


def ui(
    results: ResultsOption = RESULTS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Serve the MLflow UI on 127.0.0.1 with this project's store, until Ctrl-C."""
    places = Places.of(results, DATA)
    if not places.local_store:
        raise UserError(
            f"MLFLOW_TRACKING_URI is set, so the runs are in a store of their own ({places.store_name}); open its UI, "
            "or unset the variable to serve the local store"
        )
    store = places.mlflow / "mlflow.db"
    if not store.exists():
        raise UserError(
            f"there is no MLflow store at {store} yet; run a study first, or `dh2l-study mlflow sync STUDY`"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); give another with --port") from None
    from study.tracking import view_links

    address = f"http://127.0.0.1:{port}"
    out.print(f"MLflow UI: {address} (up in about half a minute; Ctrl-C ends it)")
    for name, link in view_links(places).items():
        out.print(f"  {name}: {address}{link}", markup=False)
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    words = f"-m mlflow server --host 127.0.0.1 --port {port} --workers 1".split()
    stores = ["--backend-store-uri", places.tracking_uri, "--artifacts-destination", str(places.mlflow / "artifacts")]
    command = [sys.executable, *words, *stores]
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
    places = Places.of(results, data)
    load_plugins(plugin)
    now = load_standing(study, set_, places)
    places.require_writable()
    places.claim_name(now.plan.name, now.plan.file.document.path)
    from study.tracking import sync_study

    if aside := sync_study(now, places):
        err.print(
            f"[yellow]warning:[/yellow] the MLflow store was damaged and lies in {escape(str(aside))} now; "
            "the new one has this study alone: sync the others too"
        )
    if report:
        write_report(now, places, track=True)
    line = f"{now.plan.name}: {len(now.found.records)} records, {len(now.plan.cells)} cells; {places.store_name}"
    out.print(line, markup=False)

"""Command that looks before a long run: doctor."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.markup import escape
from rich.text import Text

from dh2l.errors import UserError
from study.cli.console import SOME_FAILED, out, print_json
from study.cli.options import (
    DATA,
    RESULTS,
    AddressOption,
    DataOption,
    JsonOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    load_plugins,
)
from study.cli.terminal_tables import print_grid
from study.records.paths import Places
from study.tracking.uri import store_name

if TYPE_CHECKING:
    from dh2l.plugins import Plugin
    from study.doctor.facts import NodeFacts, NodeQuery
    from study.doctor.findings import Finding
    from study.execution.ray_backend import Node

SIGNS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}
SUMMARY = {"ok": "all well", "warning": "well, with warnings", "failed": "not well"}


def doctor(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    address: AddressOption = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Wait up to five minutes until so many nodes have joined the cluster."
        ),
    ] = None,
    track: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="Try the MLflow store too.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Check that this machine, or every node of a cluster, has what a study needs."""
    from study.doctor import findings as diagnosis
    from study.doctor.facts import NodeQuery
    from study.spec.study_file import find_study

    places = Places.of(results, data)
    plugins = load_plugins(plugin)
    if nodes and address is None:
        raise UserError(
            "--nodes counts the nodes of a cluster; give its --address too, or leave --nodes out"
        )
    asked = NodeQuery(places, find_study(study, set_).datasets, "this machine")
    findings = (
        _of_cluster(asked, address, nodes, plugins) if address is not None else _of_driver(asked)
    )
    if track:
        findings.append(
            diagnosis.diagnose_tracking(
                findings[0].node, store_name(places), _tracking_problem(places)
            )
        )
    worst = diagnosis.worst_severity(findings)
    if as_json:
        print_json({"outcome": worst, "nodes": _by_node(findings)})
    else:
        _print(findings)
    if worst == "failed":
        raise typer.Exit(SOME_FAILED)


def _of_driver(asked: "NodeQuery") -> list["Finding"]:
    from study.doctor.facts import collect_facts
    from study.doctor.findings import diagnose_node

    return diagnose_node(collect_facts(asked), asked)


def _of_cluster(
    asked: "NodeQuery", address: str, nodes: int | None, plugins: tuple["Plugin", ...]
) -> list["Finding"]:
    from study.doctor import findings as diagnosis
    from study.doctor.facts import collect_facts
    from study.execution.ray_backend import run_on_every_node

    asked = replace(asked, node="driver")
    driver = collect_facts(asked)
    findings = diagnosis.diagnose_node(driver, asked)
    with _note(asked.paths, usable=not driver.results) as note:
        collect = partial(_look_on, replace(asked, marker=note))
        answers = run_on_every_node(collect, address, nodes, plugins)
    if nodes and len(answers) < nodes:
        findings.append(diagnosis.missing_nodes(asked.node, len(answers), nodes))
    for node, found in answers:
        if isinstance(found, str):
            findings.append(diagnosis.unreachable_node(node.name, found))
        else:
            findings += diagnosis.diagnose_node(found, _asked_of(asked, node), driver)
    return findings


def _asked_of(asked: "NodeQuery", node: "Node") -> "NodeQuery":
    return replace(
        asked, node=node.name, ray_folder=node.ray_folder, gpus=node.gpus, verify_data=False
    )


def _look_on(asked: "NodeQuery", node: "Node") -> "NodeFacts":
    from study.doctor.facts import collect_facts

    return collect_facts(_asked_of(asked, node))


@contextmanager
def _note(places: Places, *, usable: bool) -> Iterator[str | None]:
    """Write a file among the results while nodes look for it; yield None if that fails."""
    from dh2l.io.files import remove_folder, write_atomically

    if not usable:
        yield None
        return
    folder = places.results / f".doctor-{uuid4().hex}"
    try:
        write_atomically(folder / "driver", b"")
        yield f"{folder.name}/driver"
    finally:
        remove_folder(folder)


def _tracking_problem(places: Places) -> str:
    from study.tracking.operations import probe

    try:
        probe(places)
    except UserError as error:
        return str(error)
    return ""


def _by_node(findings: list["Finding"]) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for f in findings:
        nodes.setdefault(f.node, {})[f.check] = {
            "outcome": f.severity,
            "found": f.found,
            "problem": f.problem,
        }
    return nodes


def _print(findings: list["Finding"]) -> None:
    """Print the table, node by check, then a line for each problem."""
    from study.doctor.findings import CHECKS, worst_severity

    checks = [check for check in CHECKS if any(f.check == check for f in findings)]
    rows: list[list[str | Text]] = []
    for node, found in _by_node(findings).items():
        cells = [found.get(check) for check in checks]
        row = [f"{SIGNS[c['outcome']]} {escape(c['found'])}" if c else "–" for c in cells]
        rows.append([node, *map(Text.from_markup, row)])
    print_grid(["node", *checks], rows, keys=1)
    for f in findings:
        if f.problem:
            out.print(f"{SIGNS[f.severity]} {escape(f'{f.node}, {f.check}: {f.problem}')}")
    out.print(SUMMARY[worst_severity(findings)])

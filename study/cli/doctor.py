"""Command that looks before a long run: doctor."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.markup import escape
from rich.table import Table

from dh2l.errors import UserError
from study.cli.common import (
    DATA,
    RESULTS,
    SOME_FAILED,
    AddressOption,
    DataOption,
    JsonOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    load_plugins,
    out,
    print_json,
)
from study.places import Places

if TYPE_CHECKING:
    from dh2l.plugins import Plugin
    from study.diagnosis import Finding
    from study.health import Asked

SIGNS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}
SUMMARY = {"ok": "all well", "warning": "well, with warnings", "failed": "not well"}
WIDEST = 1000
"""Characters of the table: a narrow terminal wraps its lines rather than lose findings."""


def doctor(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    address: AddressOption = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Wait up to five minutes until so many nodes have joined the cluster.")
    ] = None,
    track: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Try the MLflow store too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Say whether this machine, or every node of a cluster, has what a study needs, and how to mend what is missing."""
    from study import diagnosis
    from study.health import Asked
    from study.studyfile import find_study

    places = Places.of(results, data)
    plugins = load_plugins(plugin)
    if nodes and not address:
        raise UserError("--nodes counts the nodes of a cluster; give its --address too, or leave --nodes out")
    asked = Asked(places, find_study(study, set_).datasets, "this machine")
    findings = _of_cluster(asked, address, nodes, plugins) if address else _of_driver(asked)
    if track:
        findings.append(diagnosis.of_tracking(findings[0].node, places.store_name, _tracking_problem(places)))
    worst = diagnosis.worst(findings)
    if as_json:
        print_json({"outcome": worst, "nodes": _by_node(findings)})
    else:
        _print(findings)
    if worst == "failed":
        raise typer.Exit(SOME_FAILED)


def _of_driver(asked: "Asked") -> list["Finding"]:
    from study.diagnosis import of_machine
    from study.health import look

    return of_machine(look(asked), asked)


def _of_cluster(asked: "Asked", address: str, nodes: int | None, plugins: tuple["Plugin", ...]) -> list["Finding"]:
    from study import diagnosis
    from study.cluster import ask_nodes
    from study.health import look

    asked = replace(asked, node="driver")
    driver = look(asked)
    findings = diagnosis.of_machine(driver, asked)
    with _note(asked.places, usable=not driver.results) as note:
        answers = ask_nodes(replace(asked, note=note), address, nodes, plugins)
    if nodes and len(answers) < nodes:
        findings.append(diagnosis.of_absence(asked.node, len(answers), nodes))
    for own, found in answers:
        if isinstance(found, str):
            findings.append(diagnosis.of_silence(own.node, found))
        else:
            findings += diagnosis.of_machine(found, own, driver)
    return findings


@contextmanager
def _note(places: Places, *, usable: bool) -> Iterator[str | None]:
    """The name of something left among the results while nodes look for it; nothing where they cannot be written."""
    from dh2l.atomic import remove_folder, write_atomically

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
    from study.tracking import probe

    try:
        probe(places)
    except UserError as error:
        return str(error)
    return ""


def _by_node(findings: list["Finding"]) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for f in findings:
        nodes.setdefault(f.node, {})[f.check] = {"outcome": f.outcome, "found": f.found, "problem": f.problem}
    return nodes


def _print(findings: list["Finding"]) -> None:
    """The table, node by check, then a line for everything that is not well."""
    from study.diagnosis import CHECKS, worst

    checks = [check for check in CHECKS if any(f.check == check for f in findings)]
    table = Table("node", *checks, box=None)
    for node, found in _by_node(findings).items():
        cells = [found.get(check) for check in checks]
        table.add_row(node, *(f"{SIGNS[c['outcome']]} {escape(c['found'])}" if c else "–" for c in cells))
    table.width = out.measure(table, options=out.options.update(width=WIDEST)).maximum
    out.print(table)
    for f in findings:
        if f.problem:
            out.print(f"{SIGNS[f.outcome]} {escape(f'{f.node}, {f.check}: {f.problem}')}")
    out.print(SUMMARY[worst(findings)])

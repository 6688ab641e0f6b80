"""Command that looks before a long run: doctor."""

from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.markup import escape
from rich.table import Table

from dh2l.data import DATA_SETS
from dh2l.errors import UserError
from study import health
from study.cli.common import (
    COMPLETE,
    DATA,
    RESULTS,
    SOME_FAILED,
    AddressOption,
    DataOption,
    JsonOption,
    PluginOption,
    ResultsOption,
    SetOption,
    load_plugins,
    out,
    print_json,
)
from study.health import CHECKS, Asked, Finding
from study.places import Places

SIGNS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}
DRIVER = "driver"
WIDEST = 1000
"""Characters of the table: a narrow terminal wraps its lines rather than lose findings."""


def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Look at its data sets; default: at all prepared ones.")
    ] = None,
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
    """Say whether every node of a cluster has what a study needs, and for what is missing how to mend it."""
    places = Places.of(results, data)
    load_plugins(plugin)
    asked = Asked(places, _datasets(study, set_, places), uuid4().hex, DRIVER)
    findings = _findings(asked, address, nodes, track=track)
    worst = health.worst(findings)
    if as_json:
        print_json({"outcome": worst, "nodes": _by_node(findings)})
    else:
        _print(findings)
    raise typer.Exit(SOME_FAILED if worst == "failed" else COMPLETE)


def _datasets(study: str | None, overrides: list[str] | None, places: Places) -> tuple[str, ...]:
    """The data sets that a study names anywhere, or all that have a folder."""
    from study.studyfile import find_study

    if study is None:
        if overrides:
            raise UserError("--set changes a study's values, but no STUDY is named; name one, or leave --set out")
        return tuple(sorted(path.parent.name for path in places.data.glob("[!.]*/manifest.json")))
    return find_study(study, overrides).datasets


def _findings(asked: Asked, address: str | None, nodes: int | None, *, track: bool) -> list[Finding]:
    try:
        asked.places.require_writable()
        asked.probe.write_bytes(asked.token.encode())
    except (UserError, OSError):
        pass  # said of the driver when it looks at itself
    try:
        from study.cluster import ask_nodes  # before MLflow is imported: each would slow the other

        answers = ask_nodes(asked, address, nodes)
        driver = health.look(asked)
        findings = health.judge_driver(driver, asked)
        if nodes and len(answers) < nodes:
            findings.append(health.too_few(DRIVER, len(answers), nodes))
        if track:
            findings.append(health.tracking(DRIVER, asked.places.store_name, _tracking_problem(asked.places)))
        for own, found in answers:
            if isinstance(found, str):
                findings.append(health.no_answer(own.node, found))
            else:
                findings += health.judge_node(found, own, driver, answered=own.answer.exists())
            own.answer.unlink(missing_ok=True)
        return findings
    finally:
        asked.answer.unlink(missing_ok=True)
        asked.probe.unlink(missing_ok=True)


def _tracking_problem(places: Places) -> str:
    from study.tracking import probe

    try:
        probe(places)
    except UserError as error:
        return str(error)
    return ""


def _by_node(findings: list[Finding]) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for f in findings:
        nodes.setdefault(f.node, {})[f.check] = {"outcome": f.outcome, "found": f.found, "problem": f.problem}
    return nodes


def _print(findings: list[Finding]) -> None:
    """The table, node by check, then a line for everything that is not well."""
    table = Table("node", *CHECKS, box=None)
    for node, checks in _by_node(findings).items():
        cells = [checks.get(check) for check in CHECKS]
        table.add_row(node, *(f"{SIGNS[c['outcome']]} {escape(c['found'])}" if c else "–" for c in cells))
    table.width = out.measure(table, options=out.options.update(width=WIDEST)).maximum
    out.print(table)
    for f in findings:
        if f.problem:
            out.print(f"{SIGNS[f.outcome]} {escape(f'{f.node}, {f.check}: {f.problem}')}")
    out.print({"ok": "all well", "warning": "well, with warnings", "failed": "not well"}[health.worst(findings)])

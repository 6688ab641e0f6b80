"""Tables on a terminal: folded to its width, with nothing lost; Markdown elsewhere."""

import re
from pathlib import Path

import pytest
from study_fixtures import SMALL, CommandLine, done, write_study

from dh2l.data import read_manifest
from study.cli import console
from study.records.store import RecordStore
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile

THREE_SEEDS = SMALL.replace("seeds: [0, 1]", "seeds: [0, 1, 2]").replace(
    "{arm: E,", "{arm: [E, E+H0],"
)
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def study(tmp_path: Path, cli: CommandLine) -> Path:
    """A complete study of three cells of three seeds."""
    path = write_study(tmp_path, THREE_SEEDS)
    plan = make_plan(StudyFile(path), lambda name: read_manifest(name, cli.places.data))
    for config in plan.choosing.values():
        RecordStore(cli.places.trials).write(
            done(config, 90 + 2 * config.seed + bool(config.lambda_e))
        )
    return path


@pytest.fixture
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal of so many columns."""
    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setattr(console.out, "_width", request.param)
    return int(request.param)


@pytest.mark.parametrize("terminal", [60, 80, 200], indirect=True)
@pytest.mark.parametrize(
    "words",
    [["table"], ["compare", "E", "E+H0"], ["plan"], ["run", "--no-mlflow"]],
    ids=lambda words: words[0],
)
def test_nothing_is_wider_than_the_terminal_or_lost(
    cli: CommandLine, study: Path, words: list[str], terminal: int
) -> None:
    verb, *rest = words
    code, printed, _ = cli(verb, study, *rest)
    lines = COLOURS.sub("", printed).splitlines()
    assert code == 0
    tables = [
        line for line in lines if not line.startswith(("records:", "table:", "small:", "warning"))
    ]
    assert max(map(len, tables)) <= terminal
    assert "…" not in printed
    assert "|" not in "".join(tables)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("terminal", [60], indirect=True)
def test_what_does_not_fit_beside_the_row_s_name_follows_below_it(
    cli: CommandLine, study: Path
) -> None:
    lines = COLOURS.sub("", cli("table", study)[1]).splitlines()
    headings = [line.split("  ") for line in lines if line.startswith("metric")]
    assert [[word.strip() for word in heading if word.strip()] for heading in headings[1:3]] == [
        ["metric", "arm", "column", "n", "mean, 95% interval"],
        ["metric", "arm", "column", "difference, 95% interval"],
    ]
    assert sum(line.startswith("cosine ") for line in lines) == 2 * len(headings) > 6


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("terminal", [80], indirect=True)
@pytest.mark.parametrize("words", [["--format", "md"], ["--csv"]], ids=" ".join)
def test_markdown_and_csv_are_printed_on_request_on_a_terminal_too(
    cli: CommandLine, study: Path, words: list[str]
) -> None:
    printed = cli("table", study, *words)[1]
    name = "table.md" if words[-1] == "md" else "cells.csv"
    assert printed == (cli.places.results / "tables" / "small" / name).read_text(encoding="utf-8")


def test_elsewhere_tables_are_markdown_unless_asked_otherwise(
    cli: CommandLine, study: Path
) -> None:
    assert "| metric " in cli("table", study)[1]
    assert "| metric " in cli("compare", study, "E", "E+H0")[1]
    assert "|" not in cli("table", study, "--format", "terminal")[1]

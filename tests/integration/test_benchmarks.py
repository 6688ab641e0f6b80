"""The benchmarks: their frame by exact text, and one section for real."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from study_fixtures import ROOT

from benchmarks import watched
from benchmarks.frame import (
    Curve,
    at_least,
    at_most,
    compared,
    draw,
    figure,
    not_measured,
    paired,
    rows_table,
)


def test_a_ratio_is_the_median_of_the_rounds_ratios_with_its_spread() -> None:
    row = compared(
        "ours", "theirs", [2.0, 3.0, 10.0], [1.0, 2.0, 2.0], bound="bytes", aim=at_most(2)
    )
    assert (row.ratio, row.met, row.ours, row.theirs, row.rounds) == (
        2.0,
        True,
        "3.00 s",
        "2.00 s",
        3,
    )
    assert row.spread == "1.50 to 5.00"
    assert compared("", "", [1.0], [2.0], bound="", aim=at_least(0.6)).met is False


def test_the_table_is_this_text() -> None:
    rows = [
        compared("speed", "a | b", [4.0], [2.0], unit="/s", bound="operations", aim=at_least(1.6)),
        not_measured("speed, cuda", "a loop", "no GPU", aim=at_least(5)),
    ]
    assert rows_table(rows).splitlines() == [
        "| measure | against | ratio | aim | met | ours | theirs | rounds | bounded by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| speed | a \\| b | 2.00 | ≥ 1.6 | yes | 4.00 /s | 2.00 /s | 1 | operations |",
        "| speed, cuda | a loop | not measured | ≥ 5 |  | no GPU |  |  |  |",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1234"), (12.34, "12.3"), (1.234, "1.23"), (0.001234, "0.00123"), (0, "0")],
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_ways_take_turns_and_the_first_rounds_do_not_count() -> None:
    said: list[str] = []
    ticks = iter(range(100))
    seconds = paired(
        {"a": lambda: said.append("a"), "b": lambda: said.append("b")},
        2,
        warm_up=1,
        clock=lambda: float(next(ticks)),
    )
    assert said == ["a", "b"] * 3
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_curve_becomes_a_picture(tmp_path: Path) -> None:
    path = draw(
        Curve("cost", "Cost", "trials", "seconds", {"ours": [(1, 2), (10, 3)]}, logarithmic=True),
        tmp_path,
    )
    assert path.name == "cost.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_watched_command_tells_its_own_memory_and_where_its_thread_was(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        "held = bytearray(200 * 2**20)\nsum(range(10**7))\n", encoding="utf-8"
    )
    report = watched.watched(tmp_path, "work")
    assert 200 < report.peak_mib < 400
    assert report.looks == {watched.START: 1.0}
    assert report.view == {}
    assert report.cpu_s > 0


def test_a_watched_command_that_fails_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"study plan nothing ended with exit code 2: error: .*nothing"
    ):
        watched.watched(tmp_path, "study", "plan", "nothing")


def benchmarks(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_section_runs_and_leaves_its_table(tmp_path: Path) -> None:
    ended = benchmarks("--only", "records", "--quick", "--out", tmp_path)
    assert ended.returncode == 0, ended.stderr
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert re.search(
        r"^\| 200 records to a table, whole process \| json.loads and .* \| \d+\.\d+ ",
        table,
        re.MULTILINE,
    )
    assert (tmp_path / "table-against-records.png").exists()


def test_an_unknown_section_is_a_sentence() -> None:
    ended = benchmarks("--only", "troughput")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "throughput, epochs, regularisers" in ended.stderr


def test_an_output_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = benchmarks("--only", "records", "--out", tmp_path / "file")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the folder ")
    assert ended.stderr.count("\n") == 1

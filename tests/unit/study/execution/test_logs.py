"""Log of a trial: a copy of its output, without which it still trains."""

import logging
import sys
from pathlib import Path

import pytest

from study.execution.logs import LETTERS, LINES, TrialLog, last_lines


def test_output_goes_to_the_log_and_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = TrialLog(tmp_path / "logs" / "trial.log")
    with log.written():
        sys.stdout.write("printed\n")
        sys.stderr.write("to stderr\n")
        logging.getLogger("user").warning("logged")
    sys.stdout.write("after\n")
    log.close(keep=True)
    text = (tmp_path / "logs" / "trial.log").read_text(encoding="utf-8")
    for said in ("printed\n", "to stderr\n", "logged\n"):
        assert said in text
    assert "after" not in text
    said_here = capsys.readouterr()
    assert "printed\nafter\n" in said_here.out
    assert "to stderr\n" in said_here.err


def test_a_stream_kept_after_the_log_writes_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A logging handler or a progress bar that a user's code creates may keep the stream."""
    log = TrialLog(tmp_path / "trial.log")
    with log.written():
        kept = sys.stdout
    log.close(keep=True)
    kept.write("later\n")
    assert capsys.readouterr().out == "later\n"


def test_a_log_that_is_empty_or_not_kept_leaves_no_file(tmp_path: Path) -> None:
    TrialLog(tmp_path / "empty.log").close(keep=True)
    log = TrialLog(tmp_path / "done.log")
    with log.written():
        sys.stdout.write("words\n")
    log.close(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_without_a_log_the_trial_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file, not a folder", encoding="utf-8")
    log = TrialLog(tmp_path / "logs" / "trial.log")
    with log.written():
        sys.stdout.write("words\n")
    log.close(keep=True)
    assert capsys.readouterr().out == "words\n"
    assert last_lines(tmp_path / "logs" / "trial.log") == ()


def test_a_later_process_appends_and_a_new_start_truncates(tmp_path: Path) -> None:
    path = tmp_path / "trial.log"
    for word, anew in (("first", False), ("second", False), ("third", True)):
        log = TrialLog(path, anew=anew)
        with log.written():
            sys.stdout.write(f"{word}\n")
        log.close(keep=True)
        if word == "second":
            assert last_lines(path) == ("first", "second")
    assert last_lines(path) == ("third",)


def test_last_lines_are_cut_and_begin_with_a_crash(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trial.log"
    lines = [f"{i} {'x' * 2 * LETTERS}" for i in range(3 * LINES)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert last_lines(path) == tuple(line[:LETTERS] for line in lines[-LINES:])
    crash = [
        "Fatal Python error: Segmentation fault",
        *(f'  File "deep.py", line {i}' for i in range(2 * LINES)),
    ]
    path.write_text("\n".join([*lines[:3], *crash]), encoding="utf-8")
    assert last_lines(path) == tuple(crash[:LINES])
    path.write_bytes(b"no \xff text\n")
    assert last_lines(path) == ("no � text",)

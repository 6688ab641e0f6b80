"""Command watched from within: peak memory, and stacks of threads.

Run as `python -m benchmarks.watched REPORT MODULE WORD ...`; looks a hundred times a second. The
report is a JSON file.
"""

import json
import runpy
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from benchmarks.processes import ROOT, python, status_kib

LOOK_S = 0.01
OURS, TUNE = f"{ROOT}/study/", "/ray/tune/"
START, CALLBACKS, WAITING, TUNES = (
    "start and end",
    "this project's code",
    "waiting for a worker",
    "Ray Tune's loop",
)
"""Where the thread of a command is that trains."""
VIEW, IDLE = "mlflow", "nothing to do"
"""The name of the view's thread, and what it does while its queue is empty."""


TIMEOUT_S = 1800
"""A guard against what hangs: the longest command takes a quarter of it."""


@dataclass(frozen=True)
class Report:
    """Measurements of a command."""

    seconds: float
    cpu_s: float
    """Processor seconds of the process alone, all its threads."""
    peak_mib: float
    """The most memory that it held, of its own and shared with others."""
    looks: dict[str, float]
    """Shares of the main thread's looks by where it was."""
    view: dict[str, float]
    """The same of the thread that shows the run in MLflow; empty where there is none."""


def watched(folder: Path, *words: object) -> Report:
    """Run a module as `python -m` does, from a folder; what was seen of it.

    Raises:
        RuntimeError: it failed; with the last line of what it said.
    """
    report = folder / "watched.json"
    python(folder, "-m", "benchmarks.watched", report, *words, timeout_s=TIMEOUT_S)
    return Report(**json.loads(report.read_text(encoding="utf-8")))


def place(frame: FrameType | None) -> str:
    """Describe the position of a thread, from its innermost frame outwards."""
    found, fitting = "", False
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not found:
            if name == "wait" and file.endswith("/ray/_private/worker.py"):
                found = WAITING
            elif file.startswith(OURS):
                found = CALLBACKS
            elif TUNE in file:
                found = TUNES
        fitting = fitting or (name == "fit" and file.endswith("/ray/tune/tuner.py"))
        frame = frame.f_back
    return found if fitting else START


def view_place(frame: FrameType | None) -> str:
    """Return the method that the view's thread runs, or ""."""
    within = IDLE
    while frame is not None:
        if frame.f_code.co_filename == f"{OURS}tracking.py":
            within = frame.f_code.co_name
        frame = frame.f_back
    return within


def _look(ended: threading.Event, main: Counter[str], view: Counter[str]) -> None:
    thread = threading.main_thread().ident
    while not ended.wait(LOOK_S):
        frames = sys._current_frames()
        main[place(frames.get(thread or 0))] += 1
        for other in threading.enumerate():
            if other.name == VIEW:
                view[view_place(frames.get(other.ident or 0))] += 1


def _main() -> None:
    report, module, *words = sys.argv[1:]
    sys.argv = [module, *words]
    ended, main, view = threading.Event(), Counter[str](), Counter[str]()
    looking = threading.Thread(target=_look, args=(ended, main, view), daemon=True)
    started = time.perf_counter()
    looking.start()
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    seconds = time.perf_counter() - started
    ended.set()
    looking.join()
    shares = [
        {name: n / sum(counts.values()) for name, n in counts.items()} for counts in (main, view)
    ]
    seen = Report(seconds, time.process_time(), status_kib("VmHWM") / 2**10, *shares)
    Path(report).write_text(json.dumps(vars(seen)), encoding="utf-8")
    sys.exit(code)  # type: ignore[arg-type] # as it was raised


if __name__ == "__main__":
    _main()

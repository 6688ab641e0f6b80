"""Cost of a trial beside its training, against plain Ray Tune.

The trials train almost nothing, so that what is left is starting, reporting, recording and showing
them.
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.frame import Curve, Measured, at_most, compared, paired
from benchmarks.made_up import NAME, prepare_made_up
from benchmarks.processes import last_line, python

STUDY = """\
title: Trials that train next to nothing
config: {{dataset: {dataset}, epochs: 1, batch_size: 36, model: resnet20}}
columns: [{{name: made-up images}}]
rows: [{{arm: baseline}}]
seeds: {seeds}
"""
AGAINST = "Ray Tune and MLflowLoggerCallback, function trials that only report"


def measure(quick: bool) -> Measured:
    """Measure wall seconds of commands by number of trials, and seconds between trials' ends."""
    few, some, many = (2, 3, 6) if quick else (2, 20, 200)
    further: dict[str, float] = {}
    with TemporaryDirectory() as name:
        data = Path(name)
        prepare_made_up(data)

        def run(way: str, command: Callable[[], float]) -> Callable[[], None]:
            return lambda: further.update({way: command()})

        ways = {
            "ours before": run("ours before", partial(_ours, data, some)),
            "plain few": run("plain few", partial(_plain, few)),
            "plain": run("plain", partial(_plain, some)),
            "ours after": run("ours after", partial(_ours, data, some)),
            "ours many": run("ours many", partial(_ours, data, many)),
        }
        seconds = {way: times[0] for way, times in paired(ways, 1, warm_up=0).items()}
    ours, plain = [seconds["ours before"], seconds["ours after"]], seconds["plain"]
    all_in = compared(
        f"a trial of {some}, all in: the whole `run`, MLflow too, over {some}",
        AGAINST,
        [total / some for total in ours],
        [plain / some] * len(ours),
        aim=at_most(0.2),
        bound="start-up that all trials share: Ray, Tune's worker processes, their import of torch",
    )
    between = compared(
        f"a further trial: between the ends of two, ours of {many}, plain of {some}",
        AGAINST,
        [further["ours many"]],
        [further["plain"]],
        aim=at_most(0.2),
        bound=(
            "ours: training, two small files, a few rows in MLflow's store; plain: a new process "
            "for every trial"
        ),
    )
    curve = Curve(
        "cost-against-trials",
        "Trials that train next to nothing",
        "trials",
        "wall seconds of the whole command",
        {
            "dh2l-study run": [(some, statistics.median(ours)), (many, seconds["ours many"])],
            "plain Ray Tune": [(few, seconds["plain few"]), (some, plain)],
        },
    )
    notes = [
        "whole processes, fresh folders and MLflow stores, one CPU per trial; ours train a "
        "resnet-20 on 36 images of "
        "8×8 for an epoch and leave records, the plain ones train nothing and import no torch",
        f"the plain command of {some} trials, the longest, ran once, between two of ours; the "
        "ends of trials are when "
        "our records were filed, and what Tune says of its own",
    ]
    return Measured([all_in, between], [curve], notes=notes)


def _ours(data: Path, trials: int) -> float:
    """Run a study with fresh results; return the seconds between the ends of two trials."""
    print(f"  ours, {trials} trials", flush=True)
    with TemporaryDirectory() as name:
        file = Path(name, "study.yaml")
        file.write_text(STUDY.format(dataset=NAME, seeds=list(range(trials))), encoding="utf-8")
        results = Path(name, "results")
        python(Path(name), "-m", "study", "run", file, "--results", results, "--data", data)
        filed = [path.stat().st_mtime for path in (results / "trials").glob("*.json")]
    return (max(filed) - min(filed)) / (trials - 1)


def _plain(trials: int) -> float:
    """Run the plain script in its own folder; return the seconds between the ends of two trials."""
    print(f"  plain, {trials} trials", flush=True)
    with TemporaryDirectory() as name:
        return float(last_line(python(Path(name), "-m", "benchmarks.plain_tune", trials, name)))

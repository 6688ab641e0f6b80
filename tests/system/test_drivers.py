"""Several drivers at once over the same results: whoever comes first trains a trial, the others
wait for its record.
"""

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from study_fixtures import clean_environment, write_study

from dh2l.data import read_manifest
from study.records.leases import Claims
from study.records.paths import Places
from study.spec.plan import make_plan
from study.spec.study_file import find_study
from study.state.load import read_state

ONE = """\
title: One
config: {dataset: digits, epochs: 16, batch_size: 256}
columns: [{name: digits}]
rows:
  - arm: baseline+l2
  - {arm: E, metric: cosine, set: {lambda_e: 0.1}}
seeds: [0]
"""
OTHER = ONE.replace("metric: cosine", "metric: angular2")
"""Shares the baseline's trials."""
WRITING_DOWN = """\
import os

import study.execution.trial

train = study.execution.trial.train


def written_down(config, *words, **named):
    with open(os.environ["TRAINED"], "a", encoding="utf-8") as file:
        file.write(config.identity + "\\n")
    return train(config, *words, **named)


study.execution.trial.train = written_down
"""


def test_of_several_drivers_one_trains_each_trial_and_all_end_with_whole_tables(
    tmp_path: Path, digits: Path
) -> None:
    """Two through Ray, of studies that share trials; and a shard, which begins with a trial that is
    claimed by then.
    """
    one, other = write_study(tmp_path, ONE, "one"), write_study(tmp_path, OTHER, "other")
    places, plugin, trained = (
        Places.of(tmp_path / "results", digits),
        tmp_path / "own.py",
        tmp_path / "trained",
    )
    plugin.write_text(WRITING_DOWN, encoding="utf-8")
    where = ["--results", places.results, "--data", places.data, "--no-mlflow", "--plugin", plugin]
    with ExitStack() as stack:

        def start(*words: object) -> "subprocess.Popen[str]":
            command = [sys.executable, "-m", "study", *map(str, ["run", *words, *where])]
            return stack.enter_context(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=clean_environment(TRAINED=str(trained)),
                )
            )

        drivers, deadline = [start(one), start(other)], time.monotonic() + 120
        trained.touch()
        while not (begun := trained.read_text(encoding="utf-8").split()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        shard = write_study(
            tmp_path, ONE if "baseline" in begun[0] or "cosine" in begun[0] else OTHER, "shard"
        )
        drivers.append(start(shard, "--shard", "1/1"))
        ends = [driver.communicate(timeout=240)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0, 0], ends
    assert all(end.count("(n=1)") >= 2 for end in ends)
    wanted = set[str]()
    for study in (one, other):
        now = read_state(
            make_plan(find_study(str(study)), lambda name: read_manifest(name, digits)), places
        )
        assert now.counts == {"done": 2}
        assert now.found.warnings() == []
        wanted |= set(now.states)
    assert sorted(trained.read_text(encoding="utf-8").split()) == sorted(wanted)
    assert len(wanted) == 3
    assert Claims(places.claims).everyone() == {}

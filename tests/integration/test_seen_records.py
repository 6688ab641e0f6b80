"""Results that are removed or moved while a run goes on are told of."""

import shutil

import pytest
from study_fixtures import SMALL, CommandLine, done, unfinished, write_study

from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from study.execution.seen_records import SeenRecords
from study.records.loaded_records import LoadedRecords
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.plan import make_plan
from study.spec.study_file import find_study


def test_settled_records_that_are_not_there_any_more_are_told_of(empty: Places) -> None:
    first, second, third = (TrainConfig(seed=seed) for seed in range(3))
    store = RecordStore(empty.trials)
    store.write(done(first, 90))
    kept = SeenRecords(store.read())
    kept.on_trial_end(store.write(done(second, 90)))
    kept.on_trial_end(store.write(unfinished(third, "failed")))
    assert kept.removal_message(store.read(), empty) == ""
    path = store.path(second.identity)
    path.write_bytes(b"damage")  # it is told of as such
    assert kept.removal_message(store.read(), empty) == ""
    path.unlink()
    assert kept.removal_message(store.read(), empty).startswith(
        f"1 record of this run disappeared from {empty.trials}, first {second.identity}: "
    )
    assert kept.removal_message(LoadedRecords(), empty).startswith(
        "2 records of this run disappeared"
    )


def test_a_run_says_that_its_results_went_away(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(cli.places.local.parent, SMALL)
    plan = make_plan(find_study(str(file)), lambda name: read_manifest(name, cli.places.data))
    for config in plan.choosing.values():
        RecordStore(cli.places.trials).write(done(config, 90))

    def moved(*_: object, **__: object) -> None:
        shutil.move(cli.places.local / "trials", cli.places.local / "elsewhere")

    monkeypatch.setattr("study.execution.run.run_shard", moved)
    code, out, error = cli("run", file, "--shard", "1/1")
    assert code == 1
    assert f"4 records of this run disappeared from {cli.places.trials}," in " ".join(
        (out + error).split()
    )

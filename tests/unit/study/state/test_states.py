"""The state of every trial, from the files that lie there."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from study_fixtures import SMALL, CommandLine, done, planned, unfinished, write_study

from dh2l.config.train_config import TrainConfig
from dh2l.io.files import write_atomically
from dh2l.system.processes import machine_id
from study.execution.scheduling import next_trials
from study.execution.shards import Shard
from study.records.leases import Claim
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.plan import Plan
from study.state.load import read_state
from study.state.states import State


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return planned(tmp_path, SMALL)


@pytest.fixture
def config(plan: Plan) -> TrainConfig:
    """The plan's first trial."""
    return next(iter(plan.choosing.values()))


def claim(places: Places, config: TrainConfig, *, alive: bool) -> None:
    born = psutil.Process(os.getppid()).create_time() - psutil.boot_time() - (0 if alive else 1000)
    who = {
        "host": socket.gethostname(),
        "machine": machine_id(),
        "pid": os.getppid(),
        "born": born,
        "token": "one",
    }
    content = Claim.model_validate(who)
    write_atomically(places.claims / f"{config.identity}.json", content.model_dump_json().encode())


def file(places: Places, *records: Any) -> None:
    for record in records:
        RecordStore(places.trials).write(record)


def state(plan: Plan, places: Places, config: TrainConfig) -> State:
    return read_state(plan, places).states[config.identity]


def test_without_files_every_trial_is_planned_and_nothing_is_written(
    plan: Plan, empty: Places
) -> None:
    now = read_state(plan, empty)
    assert list(now.states) == list(plan.choosing)
    assert now.counts == {"planned": 4}
    assert now.unsettled == list(plan.choosing)
    assert not empty.results.exists()


@pytest.mark.parametrize("name", ["diverged", "failed", "stopped"])
def test_a_record_without_scores_gives_its_state(
    plan: Plan, empty: Places, config: TrainConfig, name: Any
) -> None:
    file(empty, unfinished(config, name))
    assert state(plan, empty, config) == name


def test_a_finished_record_makes_the_trial_done_whatever_claim_is_left(
    plan: Plan, empty: Places, config: TrainConfig
) -> None:
    file(empty, done(config, 90))
    assert state(plan, empty, config) is State.DONE
    for alive in (True, False):
        claim(empty, config, alive=alive)
        assert state(plan, empty, config) is State.DONE


def test_a_live_claim_makes_the_trial_running_also_when_it_failed_before(
    plan: Plan, empty: Places, config: TrainConfig
) -> None:
    claim(empty, config, alive=True)
    assert state(plan, empty, config) is State.RUNNING
    for name in ("failed", "stopped"):
        file(empty, unfinished(config, "failed" if name == "failed" else "stopped"))
        assert state(plan, empty, config) is State.RUNNING


def test_a_dead_claim_makes_the_trial_stale_or_leaves_it_failed(
    plan: Plan, empty: Places, config: TrainConfig
) -> None:
    claim(empty, config, alive=False)
    assert state(plan, empty, config) is State.STALE
    file(empty, unfinished(config, "failed"))
    assert state(plan, empty, config) is State.FAILED


def test_a_damaged_record_leaves_the_trial_planned(
    plan: Plan, empty: Places, config: TrainConfig
) -> None:
    file(empty, done(config, 90))
    path = RecordStore(empty.trials).path(config.identity)
    path.write_bytes(path.read_bytes()[:-10])
    now = read_state(plan, empty)
    assert now.states[config.identity] is State.PLANNED
    assert list(now.found.damaged) == [path]


def test_records_that_disagree_are_a_conflict(
    plan: Plan, empty: Places, config: TrainConfig
) -> None:
    file(empty, done(config, 90))
    RecordStore(empty.trials / "machine-2").write(done(config, 91))
    assert state(plan, empty, config) is State.CONFLICT


def test_a_record_of_another_study_is_not_looked_at(
    plan: Plan, empty: Places, config: TrainConfig
) -> None:
    file(empty, done(config.model_copy(update={"seed": 99}), 90))
    assert read_state(plan, empty).counts == {"planned": 4}


def test_a_run_trains_all_but_the_done_the_diverged_and_the_conflicting(
    plan: Plan, empty: Places
) -> None:
    first, second, third, fourth = plan.choosing.values()
    file(
        empty,
        done(first, 90),
        unfinished(second, "diverged"),
        unfinished(third, "failed"),
        done(fourth, 90),
    )
    RecordStore(empty.trials / "machine-2").write(done(fourth, 91))
    now = read_state(plan, empty)
    assert now.counts == {"done": 1, "diverged": 1, "failed": 1, "conflict": 1}
    assert now.unsettled == [third.identity]
    assert next_trials(now) == [third]


def test_a_stopped_trial_is_trained_on_only_in_a_study_without_scheduler(
    tmp_path: Path, empty: Places
) -> None:
    searched = SMALL + "search: {lr: {grid: [0.1, 0.2]}}\n"
    for text, trained in ((searched, 8), (searched + "scheduler: {kind: asha}\n", 6)):
        plan = planned(tmp_path, text)
        file(empty, unfinished(next(iter(plan.choosing.values())), "stopped"))
        assert len(next_trials(read_state(plan, empty))) == trained


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_disjoint_and_together_the_whole_plan(plan: Plan, count: int) -> None:
    trials = list(plan.choosing)
    shares = [Shard(index, count).of(plan) for index in range(1, count + 1)]
    assert sorted(identity for share in shares for identity in share) == sorted(trials)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_plan_of_an_edited_study_shows_which_trials_are_new_kept_and_no_longer_wanted(
    cli: CommandLine, tmp_path: Path
) -> None:
    study = write_study(tmp_path, SMALL.replace("epochs: 2", "epochs: 1"), "edited")
    assert "since the last run" not in cli("plan", study)[1]
    assert cli("run", study, "--shard", "1/4")[0] == 0
    assert "since the last run" not in cli("plan", study)[1]
    before = json.loads(cli("plan", study, "--json")[1])
    assert before["since_last_run"]["new"] == before["since_last_run"]["unwanted"] == []

    edited = study.read_text(encoding="utf-8").replace("seeds: [0, 1]", "seeds: [0, 2]")
    study.write_text(edited, encoding="utf-8")
    printed = cli("plan", study, "--trials")[1]
    gone = [trial["identity"] for trial in before["trials"] if "-s1-" in trial["identity"]]
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if "digits-" in line}
    assert len(rows) == 6
    assert {identity: words[-1] for identity, words in rows.items() if identity not in gone} == {
        identity: "new" if "-s2-" in identity else "kept"
        for identity in rows
        if identity not in gone
    }
    assert "since the last run: 2 new, 2 kept, 2 removed" in printed
    assert [identity for identity, words in rows.items() if words[0] == "removed;"] == gone
    since = json.loads(cli("plan", study, "--json")[1])["since_last_run"]
    assert since["unwanted"] == gone
    assert len(since["new"]) == len(since["kept"]) == 2

"""The one count of a study's trials, the time that a run has left, and the display of both."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from study_fixtures import (
    SEARCH,
    SMALL,
    TWO_STAGES,
    CommandLine,
    done,
    places_in,
    planned,
    standing_of,
    unfinished,
    write_study,
)

from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from dh2l.results import EpochResult
from dh2l.wording import counted, listed
from study.cli.progress import RunProgress
from study.cli.time_left import Remaining
from study.execution.scheduling import next_trials
from study.execution.shards import Shard
from study.execution.tally import Outlook, outlook, tally_of
from study.records.record import Record
from study.records.store import RecordStore
from study.reporting.tables import render
from study.spec.plan import Plan, make_plan
from study.spec.study_file import StudyFile
from study.state.load import read_state
from study.state.results import StudyResults
from study.state.study_state import StudyState

NUMBERS: dict[str, float | None] = {
    "train_loss": 1.0,
    "validation_accuracy": 0.5,
    "images_per_s": 100.0,
    "seconds": 1.0,
}


class Clock:
    """Gives the seconds that it is set to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def two_stages(tmp_path: Path) -> tuple[Plan, StudyState]:
    """Four trials that choose, three that confirm the baseline, and three that confirm the
    choice.
    """
    plan = planned(tmp_path, TWO_STAGES)
    return plan, read_state(plan, places_in(tmp_path))


def train(
    remaining: Remaining, clock: Clock, configs: list[TrainConfig], seconds: float = 1.0
) -> None:
    for config in configs:
        remaining.started(config)
        for epoch in range(1, config.epochs + 1):
            clock.seconds += seconds
            remaining.epoch(config, epoch)
        remaining.ended(config.identity)


# -- the count


def test_one_count_holds_from_the_plan_to_the_end(
    tmp_path: Path, two_stages: tuple[Plan, StudyState]
) -> None:
    plan, now = two_stages
    store, totals = RecordStore(places_in(tmp_path).trials), []
    while missing := next_trials(now):
        totals.append(tally_of(now).total)
        assert str(tally_of(now)) == "10 trials"
        store.write(done(missing[0], 90))
        now = read_state(plan, places_in(tmp_path))
    assert totals == [10] * 10
    assert (tally_of(now).over, tally_of(now).left, tally_of(now).later) == (10, 0, 0)


@pytest.mark.parametrize(
    "text", [SEARCH, TWO_STAGES + "scheduler: {kind: asha}\n"], ids=["searcher", "scheduler"]
)
def test_where_trials_may_be_stopped_or_not_be_tried_the_count_is_an_upper_bound(
    tmp_path: Path, text: str
) -> None:
    assert str(tally_of(read_state(planned(tmp_path, text), places_in(tmp_path)))).startswith(
        "at most "
    )


def test_trials_that_confirm_nothing_are_not_waited_for(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWO_STAGES)
    lost: list[Record] = [unfinished(config, "diverged") for config in plan.choosing.values()]
    now = standing_of(plan, places_in(tmp_path), lost)
    assert (tally_of(now).over, tally_of(now).left, tally_of(now).later) == (4, 3, 0)


def test_a_share_counts_its_own_trials(two_stages: tuple[Plan, StudyState]) -> None:
    _, now = two_stages
    shares = [outlook(now, Shard(i, 2)) for i in (1, 2)]
    assert sum(share.tally.left for share in shares) == 7
    assert all(share.tally.later <= 3 for share in shares)
    assert all(len(share.missing) == share.tally.left for share in shares)


def test_the_plan_the_status_and_the_run_say_the_same_total(
    tmp_path: Path, cli: CommandLine
) -> None:
    study = write_study(tmp_path, TWO_STAGES)
    plan = make_plan(StudyFile(study), lambda name: read_manifest(name, cli.places.data))
    for config in list(plan.choosing.values())[:3]:
        RecordStore(cli.places.trials).write(done(config, 90))
    assert cli("plan", study)[1].startswith(
        "small: 10 trials in 2 cells: 4 that choose, 6 that confirm on 3 fresh seeds.\n"
    )
    assert (
        cli("status", study)[1]
        == "small: 3 of 10 trials over; 4 planned, 3 done, 3 that depend on results\n"
    )
    assert outlook(read_state(plan, cli.places)).tally.total == 10


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0 seeds"), (1, "1 seed"), (1.0, "1 seed"), (0.5, "0.5 seeds"), (1442, "1,442 seeds")],
)
def test_a_count_has_its_noun_in_the_right_number(n: float, words: str) -> None:
    assert counted(n, "seed") == words


def test_a_study_of_one_seed_has_no_plurals_of_it(tmp_path: Path, cli: CommandLine) -> None:
    text = (
        TWO_STAGES.replace("[10, 11, 12]", "[10]")
        .replace("- {arm: E}", "")
        .replace("[0, 1]", "[0]")
    )
    said = cli("plan", write_study(tmp_path, text))[1]
    assert said.startswith(
        "small: 4 trials in 2 cells: 2 that choose, 2 that confirm on 1 fresh seed.\n"
    )
    one = cli(
        "plan",
        write_study(tmp_path, SMALL.replace("[0, 1]", "[0]").replace("  - arm: baseline+l2\n", "")),
    )[1]
    assert one.startswith("small: 1 trial in 1 cell.\n")
    assert "`run` would train 1 trial (2 epochs)\n" in one


# -- the time left


def test_the_time_left_counts_the_trials_that_confirm_what_is_not_chosen_yet(
    two_stages: tuple[Plan, StudyState],
) -> None:
    _, now = two_stages
    clock = Clock()
    remaining = Remaining(outlook(now), clock)
    assert remaining.seconds() is None
    train(remaining, clock, next_trials(now))
    assert remaining.stages == {"confirming"}
    left = remaining.seconds()
    clock.seconds += 45  # Ray, or its workers, start anew: nothing trains
    assert remaining.seconds() == left
    assert left == pytest.approx(6)  # epochs of three trials, of a second each
    spec = now.plan.cell_configs[1]
    chosen = [spec.config({"lambda_e": 0.1}, seed, confirm=True) for seed in (10, 11, 12)]
    train(remaining, clock, chosen[:2])
    assert remaining.seconds() == pytest.approx(2, rel=0.2)
    train(remaining, clock, chosen[2:])
    assert remaining.seconds() is None


def test_a_stage_takes_no_less_than_its_longest_trial(two_stages: tuple[Plan, StudyState]) -> None:
    _, now = two_stages
    clock, configs = Clock(), next_trials(now)[:2]
    long = configs[1].model_copy(update={"epochs": 100})
    remaining = Remaining(Outlook(missing=(configs[0], long)), clock)
    for config in (configs[0], long):
        remaining.started(config)
    for epoch in (1, 2):
        clock.seconds += 1
        remaining.epoch(configs[0], epoch)
        remaining.epoch(long, epoch)
    remaining.ended(configs[0].identity)
    assert remaining.seconds() == pytest.approx(
        98 / 3 * 2
    )  # three epochs a second by two, so the one left takes twice


def test_work_counts_by_what_an_epoch_computes(two_stages: tuple[Plan, StudyState]) -> None:
    _, now = two_stages
    ahead = outlook(now)
    small = ahead.missing[0]
    large = small.model_copy(update={"model": "resnet110"})
    assert ahead.epoch_work(large) > 5 * ahead.epoch_work(small)


# -- the display


def screen(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_the_display_names_the_phase_and_fits_80_columns(
    two_stages: tuple[Plan, StudyState],
) -> None:
    _, now = two_stages
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=40)
    progress = RunProgress(console, outlook(now))
    phases = []
    with progress.shown():
        progress.phase("starting Ray")
        for config in next_trials(now):
            progress.on_trial_start(config)
            console.file.seek(0)
            console.file.truncate()
            for epoch in (1, 2):
                progress.on_epoch_end(config, EpochResult(epoch, NUMBERS))
            assert progress._live is not None
            progress._live.refresh()
            shown = screen(console)
            assert all(len(line) <= 80 for line in shown.splitlines())
            assert re.search(r"running +epoch +train loss +validation +images/s", shown)
            phases.append(re.findall(r"^(\w+) .*?(\d+)/10", shown, re.MULTILINE)[-1])
            progress.on_trial_end(done(config, 90))
    assert phases == [
        *(("choosing", str(n)) for n in range(4)),
        *(("confirming", str(n)) for n in range(4, 7)),
    ]


def test_elsewhere_each_phase_is_a_line(
    two_stages: tuple[Plan, StudyState], capsys: pytest.CaptureFixture[str]
) -> None:
    _, now = two_stages
    progress = RunProgress(Console(width=80), outlook(now))
    progress.phase("starting Ray")
    for config in next_trials(now):
        progress.on_trial_start(config)
        progress.on_epoch_end(config, EpochResult(2, NUMBERS))
        progress.on_trial_end(done(config, 90))
    progress.phase("rendering the table")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" ...")]
    assert lines == [
        "starting Ray ...",
        "first steps ...",
        "choosing ...",
        "confirming ...",
        "rendering the table ...",
    ]


def test_values_stand_after_their_noun_in_the_right_number() -> None:
    assert (listed("seed", [0]), listed("seed", [0, 1])) == ("seed 0", "seeds 0, 1")


def test_a_table_of_one_seed_speaks_of_one(tmp_path: Path) -> None:
    text = TWO_STAGES.replace("[10, 11, 12]", "[10]").replace("[0, 1]", "[0]")
    said = " ".join(
        render(StudyResults(read_state(planned(tmp_path, text), places_in(tmp_path)))).statements
    )
    assert "over seed 10; n" in said
    assert "after a choice on seed 0." in said

"""Studies in two stages, studies that a searcher fills, studies that extend others, axes with
conditions.
"""

from pathlib import Path

import pytest
from study_fixtures import (
    SEARCH,
    SMALL,
    TWO_STAGES,
    CommandLine,
    candidate_configs,
    done,
    made_manifest,
    places_in,
    planned,
    standing_of,
    unfinished,
    write_study,
)

from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from dh2l.errors import UserError
from study.analysis.frames import cell_frame
from study.cli.console import WAITING
from study.execution.scheduling import next_trials
from study.execution.search.optuna_search import OptunaSearcher
from study.execution.shards import Shard, waiting
from study.records.leases import Claims
from study.records.store import RecordStore
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile
from study.state.load import read_state
from study.state.remaining import trials_to_come
from study.state.results import StudyResults
from study.state.states import State
from study.state.study_state import StudyState


def test_a_cell_without_a_choice_is_only_confirmed_and_a_choice_only_on_the_chosen(
    tmp_path: Path,
) -> None:
    now = read_state(planned(tmp_path, TWO_STAGES), places_in(tmp_path))
    assert [(c.seed, c.protocol, c.arm) for c in next_trials(now)] == [
        (0, "validated", "E"),
        (0, "validated", "E"),
        (1, "validated", "E"),
        (1, "validated", "E"),
        *((seed, "paper", "baseline+l2") for seed in (10, 11, 12)),
    ]
    assert trials_to_come(now) == 3


def test_the_table_shows_the_trials_that_confirm_the_choice(tmp_path: Path) -> None:
    plan, places = planned(tmp_path, TWO_STAGES), places_in(tmp_path)
    store = RecordStore(places.trials)
    for values, accuracy in zip(candidate_configs(plan, 1), (60, 70), strict=True):
        for config in values:
            store.write(done(config, 90, accuracy))
    now = read_state(plan, places)
    chosen = [config for config in next_trials(now) if config.arm == "E"]
    assert [(c.lambda_e, c.seed, c.protocol) for c in chosen] == [
        (1.0, seed, "paper") for seed in (10, 11, 12)
    ]
    for config in chosen[:2]:
        store.write(done(config, 80 + config.seed, None))
    result = StudyResults(read_state(plan, places)).cells[1]
    assert result.accuracies(plan.file.study) == pytest.approx([90, 91])
    assert (result.confirmed, result.chosen_on_these, result.problem) == (
        True,
        False,
        "missing (1 of 3)",
    )
    row = cell_frame(StudyResults(read_state(plan, places))).iloc[1]
    assert (row["n"], row["planned"], row["candidates"]) == (2, 3, 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TWO_STAGES.replace("[10, 11, 12]", "[1, 2]"), "seeds [1] both choose and confirm"),
        (TWO_STAGES + "rule: oracle\n", "rule: oracle selects on the test set"),
        (TWO_STAGES + "accuracy: oracle\n", "confirm trains without a validation set"),
        (
            TWO_STAGES.replace("epochs: 2", "epochs: 2, protocol: paper"),
            "confirm trains on the full training set",
        ),
    ],
)
def test_what_cannot_be_confirmed_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, text)
    assert sentence in str(caught.value)


def test_a_study_takes_what_it_does_not_say_from_the_study_it_extends(tmp_path: Path) -> None:
    write_study(tmp_path, SMALL, "base")
    file = StudyFile(
        write_study(tmp_path, "extends: base.yaml\ntitle: Mine\nconfig: {epochs: 7}\n", "mine")
    )
    assert (file.name, file.study.title, file.study.seeds) == ("mine", "Mine", [0, 1])
    assert file.study.config == {"dataset": "digits", "epochs": 7, "batch_size": 256}
    assert file.source_location(("config", "batch_size")) == f"{tmp_path}/base.yaml:2:38"
    assert file.source_location(("config", "epochs")) == f"{tmp_path}/mine.yaml:3:10"


def test_a_study_extends_a_shipped_one_by_name(tmp_path: Path) -> None:
    plan = planned(tmp_path, "extends: quickstart\nseeds: [5]\n")
    assert {config.seed for config in plan.choosing.values()} == {5}
    assert len(plan.cells) == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("extends: mine.yaml\n", "mine.yaml:1:1: mine.yaml extends itself"),
        (
            "extends: quickstrt\n",
            "mine.yaml:1:1: unknown study 'quickstrt'; did you mean 'quickstart'?",
        ),
    ],
)
def test_what_cannot_be_extended_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        StudyFile(write_study(tmp_path, text, "mine"))
    assert sentence in str(caught.value)


def test_an_axis_is_there_only_when_its_condition_holds(tmp_path: Path) -> None:
    text = SEARCH.replace("searcher: {trials: 5}\n", "").replace(
        "{uniform: [0.1, 0.9],", "{grid: [0.2, 0.4],"
    )
    plan = planned(
        tmp_path, text.replace("{loguniform: [0.001, 1]}", "{grid: [1]}").replace("choice", "grid")
    )
    assert [candidate.values for candidate in plan.cells[1].candidates] == [
        {"lambda_e": 1, "centres": "learned"},
        {"lambda_e": 1, "centres": "parent", "centre_scale": 0.2},
        {"lambda_e": 1, "centres": "parent", "centre_scale": 0.4},
    ]


def test_axes_that_wait_for_one_another_are_a_sentence(tmp_path: Path) -> None:
    text = SEARCH.replace(
        "choice: [learned, parent]", "choice: [learned, parent], when: {centre_scale: 0.5}"
    )
    with pytest.raises(UserError) as caught:
        planned(tmp_path, text)
    assert (
        "the axes centre_scale and centres depend on each other; change one of their `when`"
        in str(caught.value)
    )


def searcher(now: StudyState, folder: Path) -> OptunaSearcher:
    groups = dict.fromkeys(now.states, "known")
    return OptunaSearcher(now, next_trials(now), groups, RecordStore(places_in(folder).trials).read)


def trained(found: OptunaSearcher, folder: Path, n: int) -> list[TrainConfig]:
    """Some suggested trials, filed; larger λe are better."""
    configs: list[TrainConfig] = []
    store = RecordStore(places_in(folder).trials)
    while len(configs) < n and (config := found.suggest()) is not None:
        store.write(done(config, 50, 50 + 10 * config.lambda_e))
        found.tell(config.identity, "done")
        configs.append(config)
    return configs


def test_a_search_tries_as_many_candidates_as_it_may_with_every_seed(tmp_path: Path) -> None:
    plan = planned(tmp_path, SEARCH)
    now = read_state(plan, places_in(tmp_path))
    found = searcher(now, tmp_path)
    configs = trained(found, tmp_path, 100)
    assert found.limit == len(configs) == 2 + 5 * 2
    assert len({config.identity for config in configs}) == 12
    candidates = {(c.lambda_e, c.centres, c.centre_scale) for c in configs if c.lambda_e}
    assert len(candidates) == 5
    assert all(scale == 0.5 for _, centres, scale in candidates if centres == "learned")
    after = read_state(plan, places_in(tmp_path))
    assert next_trials(after) == []
    best = StudyResults(after).cells[1]
    assert best.selected is not None
    assert best.selected.values["lambda_e"] == max(scale for scale, _, _ in candidates)


@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_a_search_that_was_cut_off_goes_on_as_the_same_search(tmp_path: Path, n: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    suggestions = []
    for folder, stops in ((whole, [100]), (cut, [n, 100])):
        folder.mkdir()
        plan = planned(folder, SEARCH)
        configs: list[TrainConfig] = []
        for stop in stops:
            configs += trained(searcher(read_state(plan, places_in(folder)), folder), folder, stop)
        suggestions.append([config.identity for config in configs])
    assert sorted(suggestions[0]) == sorted(suggestions[1])


def test_a_trial_that_was_begun_and_killed_is_a_known_candidate(tmp_path: Path) -> None:
    plan, places = planned(tmp_path, SEARCH), places_in(tmp_path)
    found = searcher(read_state(plan, places), tmp_path)
    config = next(c for c in iter(found.suggest, None) if c is not None and c.lambda_e)
    with Claims(places.claims).hold(config.identity, 2, config.model_dump(mode="json")):
        begun = read_state(plan, places)
    assert config.identity in begun.states
    assert begun.states[config.identity] is State.RUNNING
    assert len(begun.plan.cells[1].candidates) == 1


def test_the_other_seeds_of_a_candidate_that_lost_are_not_begun(tmp_path: Path) -> None:
    plan, places = planned(tmp_path, SEARCH), places_in(tmp_path)
    found = searcher(read_state(plan, places), tmp_path)
    configs = [found.suggest() for _ in range(3)]
    lost = configs[-1]
    assert lost is not None
    assert lost.lambda_e
    RecordStore(places.trials).write(unfinished(lost, "stopped"))
    found.tell(lost.identity, "stopped")
    following = found.suggest()
    assert following is not None
    assert following.lambda_e != lost.lambda_e


def test_a_search_counts_what_another_study_has_tried_already(tmp_path: Path) -> None:
    grid = planned(
        tmp_path,
        SEARCH.replace("searcher: {trials: 5}\n", "").replace(
            "loguniform: [0.001, 1]", "grid: [0.5]"
        ),
        "grid",
    )
    store = RecordStore(places_in(tmp_path).trials)
    for configs in candidate_configs(grid, 1):
        for config in configs:
            store.write(done(config, 50))
    now = read_state(planned(tmp_path, SEARCH), places_in(tmp_path))
    assert [candidate.values["lambda_e"] for candidate in now.plan.cells[1].candidates] == [0.5]
    assert searcher(now, tmp_path).limit == 2 + 4 * 2


def test_a_space_of_few_points_ends_the_search(tmp_path: Path) -> None:
    text = SEARCH.replace("loguniform: [0.001, 1]", "choice: [0.1, 1]").replace(
        "uniform: [0.1, 0.9]", "choice: [0.2]"
    )
    plan = planned(tmp_path, text.replace("trials: 5", "trials: 50"))
    assert plan.cells[1].budget == 4
    found = searcher(read_state(plan, places_in(tmp_path)), tmp_path)
    assert len(trained(found, tmp_path, 1000)) == 2 + 4 * 2


def test_a_share_of_both_stages_stays_the_same_while_choices_are_made(
    tmp_path: Path, cli: CommandLine
) -> None:
    study = write_study(tmp_path, TWO_STAGES.replace("epochs: 2", "epochs: 1, batch_size: 512"))
    code, out, _ = cli(
        "run", study, "--shard", "2/9"
    )  # the second and the eleventh of 4 trials that choose and 9 others
    assert code == WAITING, out
    records = RecordStore(cli.places.trials).read().records.values()
    assert {(r.seed, r.config["protocol"]) for r in records} == {(0, "validated"), (12, "paper")}


def test_a_searcher_and_a_fixed_share_are_a_mistake(tmp_path: Path, cli: CommandLine) -> None:
    said = cli.mistake("run", write_study(tmp_path, SEARCH), "--shard", "1/2")
    assert said.startswith(
        "--shard trains a fixed share of a plan, but a searcher makes this one as it goes"
    )


def test_stopped_trials_are_left_alone_while_a_search_goes_on(tmp_path: Path) -> None:
    plan, places = planned(tmp_path, SEARCH + "scheduler: {kind: asha}\n"), places_in(tmp_path)
    found = searcher(read_state(plan, places), tmp_path)
    configs = [found.suggest() for _ in range(4)]
    store = RecordStore(places.trials)
    for config in configs:
        assert config is not None
        store.write(unfinished(config, "stopped") if config.lambda_e else done(config, 90))
    assert next_trials(read_state(plan, places)) == []


def test_plans_of_both_stages_are_expanded_the_same_way_twice(tmp_path: Path) -> None:
    path = write_study(tmp_path, TWO_STAGES)
    first, second = (make_plan(StudyFile(path), made_manifest) for _ in range(2))
    assert first.cells == second.cells
    assert list(first.confirming) == list(second.confirming)
    assert not set(first.choosing) & set(first.confirming)


def test_a_share_says_by_its_exit_code_that_other_shares_keep_cells_from_their_choice(
    tmp_path: Path, cli: CommandLine
) -> None:
    study = write_study(tmp_path, TWO_STAGES)
    plan = make_plan(StudyFile(study), lambda name: read_manifest(name, cli.places.data))
    store = RecordStore(cli.places.trials)
    searching, others = (
        plan.cells[1],
        [i for c in plan.cells for k in c.candidates for i in k.confirmations],
    )
    identities = [i for candidate in searching.candidates for i in candidate.trials]
    missing = identities[0]
    for identity in [*identities[1:], *others]:
        store.write(done(plan.config(identity), 90))
    share = next(i for i in (1, 2) if missing not in Shard(i, 2).of(plan))
    code, _, error = cli("run", study, "--shard", f"{share}/2")
    assert (code, error) == (
        WAITING,
        "this share is trained, but 1 cell cannot choose yet, because trials of other shares are "
        "missing, so nothing "
        "confirms the choice. Run the same command again when the other shares have ended.\n",
    )
    store.write(done(plan.config(missing), 90))
    code, _, error = cli("run", study, "--shard", f"{share}/2")
    assert (code, error) == (0, "")


def test_a_cell_whose_candidates_all_diverged_keeps_no_share_waiting(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWO_STAGES)
    lost = [
        unfinished(config, "diverged")
        for configs in candidate_configs(plan, 1)
        for config in configs
    ]
    assert waiting(standing_of(plan, places_in(tmp_path), lost)) == []
    assert [
        cell.key.arm for cell in waiting(standing_of(plan, places_in(tmp_path / "other"), lost[:1]))
    ] == ["E"]


def test_the_only_share_trains_both_stages(tmp_path: Path, cli: CommandLine) -> None:
    short = TWO_STAGES.replace("epochs: 2", "epochs: 1, batch_size: 512").replace(
        "seeds: [0, 1]", "seeds: [0]"
    )
    study = write_study(tmp_path, short.replace("[10, 11, 12]", "[10]"))
    code, out, error = cli("run", study, "--shard", "1/1")
    assert (code, error) == (0, ""), out
    records = RecordStore(cli.places.trials).read().records.values()
    assert sorted((r.config["lambda_e"] > 0, r.seed) for r in records) == [
        (False, 10),
        (True, 0),
        (True, 0),
        (True, 10),
    ]

"""Tables, word for word."""

import statistics
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from study_fixtures import (
    CPU,
    SEARCHED,
    SMALL,
    candidate_configs,
    clean_environment,
    done,
    places_in,
    planned,
    standing_of,
    unfinished,
)

from dh2l.config.train_config import TrainConfig
from study.analysis.frames import EVIDENCE, cell_frame
from study.analysis.quality import COLUMNS
from study.records.record import Record
from study.reporting.page import save, to_markdown
from study.reporting.tables import render
from study.spec.plan import Plan
from study.state.results import StudyResults

TWO_COLUMNS = """\
title: Two columns
paper_table: 2
config: {protocol: paper}
rule: oracle
columns:
  - {name: left, set: {dataset: digits, model: resnet20}}
  - {name: right, set: {dataset: cifar100, model: resnet110}}
rows:
  - arm: baseline
  - {arm: [E, E+H], metric: am, set: {lambda_e: 0.1}}
search:
  lambda_l: {grid: [0.1]}
seeds: [0, 1, 2]
"""
"""The paper prints nothing of the digits, and of resnet-110 without l2 a number that the project
notes as suspect."""


def trial(plan: Plan, cell: int, seed: int, candidate: int = 0) -> TrainConfig:
    return candidate_configs(plan, cell)[candidate][seed]


def rendered(folder: Path, plan: Plan, records: list[Record]) -> str:
    return to_markdown(render(StudyResults(standing_of(plan, places_in(folder), records))))


def test_a_small_study_s_table_reads_word_for_word(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL)
    records = [
        done(trial(plan, 0, 0), 96),
        done(trial(plan, 0, 1), 97),
        done(trial(plan, 1, 0), 97.123),
        done(trial(plan, 1, 1), 97.456),
    ]
    assert rendered(tmp_path, plan, records) == (
        "# A small study\n"
        "\n"
        "Test accuracy in percent, the last epoch's; mean ± sample standard deviation over seeds "
        "0, 1; n = 2.\n"
        "Protocol: validated. Nothing is selected: every cell has one configuration.\n"
        "Data: digits (64696769). Commit: 0123456789. Hardware: a processor.\n"
        "\n"
        "| metric      | arm | digits             |\n"
        "|-------------|-----|--------------------|\n"
        "| baseline+l2 |     | 96.50 ± 0.71 (n=2) |\n"
        "| cosine      | E   | 97.29 ± 0.24 (n=2) |\n"
        "\n"
        "## What each number is worth\n"
        "\n"
        "| metric      | arm | column | n | mean, 95% interval | difference, 95% interval | p "
        "(Holm)         "
        "| test images, 95% |\n"
        "|-------------|-----|--------|---|--------------------|--------------------------|------------------"
        "|------------------|\n"
        "| baseline+l2 |     | digits | 2 | 96.50              |                          | is "
        "the reference "
        "|                  |\n"
        "| cosine      | E   | digits | 2 | 97.29              | +0.79                    | n < 3 "
        "           "
        "|                  |\n"
        "\n"
        "Intervals of means: Student's t over seeds, cut at 0 and 100; none below three seeds, or "
        "where all seeds are "
        "equal.\n"
        "Difference in points from the reference, which is the baseline of the same column with "
        "the same l2: Welch's "
        "t over seeds, one test per cell. p is adjusted by Holm over the table's tests (0 so "
        "far); the interval is "
        "each cell's alone.\n"
        "Test images: bootstrap of the difference over the images of the test set, with the "
        "networks as they are. It "
        "says nothing of other seeds and is no second test.\n"
        "None where a trial's predictions cannot be read, or where test accuracy chose.\n"
    )


def test_a_table_with_two_columns_and_the_paper_s_numbers_reads_word_for_word(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, TWO_COLUMNS)
    records = [
        *(done(trial(plan, 0, seed), 90 + seed) for seed in range(3)),
        *(done(trial(plan, 1, seed), 62.5) for seed in range(3)),
        done(trial(plan, 2, 0), 91, commit="f" * 40),
        done(trial(plan, 2, 1), 92, dirty=True),
        unfinished(trial(plan, 2, 2), "failed"),
        done(trial(plan, 3, 0), 73),
        done(trial(plan, 4, 0), 91, cpu="another"),
        done(trial(plan, 4, 1), 93),
        unfinished(trial(plan, 4, 2), "diverged"),
    ]
    diverged, failed = trial(plan, 4, 2).identity, trial(plan, 2, 2).identity
    assert rendered(tmp_path, plan, records) == (
        "# Two columns\n"
        "\n"
        "Test accuracy in percent, the last epoch's; mean ± sample standard deviation over seeds "
        "0, 1, 2; "
        "n = 0 to 3 of 3.\n"
        "Protocol: paper. Nothing is selected: every cell has one configuration.\n"
        "Data: cifar100 (63696661), digits (64696769). Commit: 0123456789; 0123456789+changes; "
        "ffffffffff. "
        "Hardware: a processor; another.\n"
        "\n"
        "| metric   | arm | left                                      "
        "| right                         | paper, right | difference, right |\n"
        "|----------|-----|-------------------------------------------"
        "|-------------------------------|--------------|-------------------|\n"
        "| baseline |     | 91.00 ± 1.00 (n=3)                        "
        "| 62.50 ± 0.00 (n=3)            | 62.02 [1]    | +0.48             |\n"
        "| D_AM     | E   | 91.50 ± 0.71 (n=2), failed (1 of 3) [2]   "
        "| 73.00 (n=1), missing (2 of 3) | 73.43        | −0.43             |\n"
        "| D_AM     | E+H | 92.00 ± 1.41 (n=2), diverged (1 of 3) [3] "
        "| missing (3 of 3)              | 73.50        |                   |\n"
        "\n"
        "[1] without l2, below resnet-20's 63.86\n"
        "[2] trials of more than one commit: 0123456789+changes; ffffffffff\n"
        "[3] trials of more than one kind of hardware: a processor; another\n"
        "\n"
        "## What each number is worth\n"
        "\n"
        "| metric   | arm | column | n | mean, 95% interval   | difference, 95% interval | p "
        "(Holm)     "
        "| test images, 95% |\n"
        "|----------|-----|--------|---|----------------------|--------------------------|--------------"
        "|------------------|\n"
        "| baseline |     | left   | 3 | 91.00 [88.52, 93.48] |                          | no "
        "reference "
        "|                  |\n"
        "| baseline |     | right  | 3 | 62.50                |                          | no "
        "reference "
        "|                  |\n"
        "| D_AM     | E   | left   | 2 | 91.50                |                          | no "
        "reference "
        "|                  |\n"
        "| D_AM     | E   | right  | 1 | 73.00                |                          | no "
        "reference "
        "|                  |\n"
        "| D_AM     | E+H | left   | 2 | 92.00                |                          | no "
        "reference "
        "|                  |\n"
        "| D_AM     | E+H | right  | 0 |                      |                          | no "
        "reference "
        "|                  |\n"
        "\n"
        "Intervals of means: Student's t over seeds, cut at 0 and 100; none below three seeds, or "
        "where all seeds are "
        "equal.\n"
        "No reference: no baseline of the same column has the same weight decay, data set and "
        "model; a row with "
        "arm: baseline+l2 (baseline, without weight decay) would be one.\n"
        "\n"
        "Failed or diverged:\n"
        "\n"
        f"- {diverged}: diverged, the energy became non-finite in epoch 1\n"
        f"- {failed}: failed, disk on fire\n"
    )


def test_a_searched_study_s_table_reads_word_for_word(tmp_path: Path) -> None:
    text = SEARCHED.replace("[{arm: E}]", "[{arm: baseline}, {arm: E}]") + "  lr: {grid: [0.1]}\n"
    plan = planned(tmp_path, text)
    validation = {0.1: 70, 1.0: 72, 10.0: 71}
    records = [
        done(c, 60 + 10 * c.seed + c.lambda_e, validation.get(c.lambda_e, 50))
        for c in plan.choosing.values()
    ]
    assert rendered(tmp_path, plan, records) == (
        "# A searched study\n"
        "\n"
        "Test accuracy in percent, the last epoch's; mean ± sample standard deviation over seeds "
        "0, 1; n = 2.\n"
        "Protocol: validated. Selection: highest mean validation accuracy over the seeds.\n"
        "Data: digits (64696769). Commit: 0123456789. Hardware: a processor.\n"
        "\n"
        "| metric   | arm | digits             |\n"
        "|----------|-----|--------------------|\n"
        "| baseline |     | 65.00 ± 7.07 (n=2) |\n"
        "| E        |     | 66.00 ± 7.07 (n=2) |\n"
        "\n"
        "## What each number is worth\n"
        "\n"
        "| metric   | arm | column | n | mean, 95% interval | difference, 95% interval | p (Holm) "
        "    "
        "| test images, 95% | selected                  |\n"
        "|----------|-----|--------|---|--------------------|--------------------------|--------------"
        "|------------------|---------------------------|\n"
        "| baseline |     | digits | 2 | 65.00              |                          | no "
        "reference "
        "|                  |                           |\n"
        "| E        |     | digits | 2 | 66.00              |                          | no "
        "reference "
        "|                  | lambda_e=1, lr=0.1 (of 3) |\n"
        "\n"
        "Intervals of means: Student's t over seeds, cut at 0 and 100; none below three seeds, or "
        "where all seeds are "
        "equal.\n"
        "No reference: no baseline of the same column has the same weight decay, data set and "
        "model; a row with "
        "arm: baseline+l2 (baseline, without weight decay) would be one.\n"
    )


def test_without_any_record_a_table_says_so(tmp_path: Path) -> None:
    text = rendered(tmp_path, planned(tmp_path, SEARCHED), [])
    assert "Commit: none yet. Hardware: none yet." in text
    assert "| E      |     | missing (6 of 6) |\n" in text
    assert "seeds 0, 1; n = 0 of 2." in text


def test_a_failed_candidate_shows_instead_of_a_winner(tmp_path: Path) -> None:
    plan = planned(tmp_path, SEARCHED)
    records = [done(config, 90) for config in plan.choosing.values()]
    records[3] = unfinished(TrainConfig.model_validate(records[3].config), "failed")
    text = rendered(tmp_path, plan, records)
    assert "| E      |     | failed (1 of 6) |" in text
    assert "90.00" not in text


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL.replace("[0, 1]", "[5]"))
    text = rendered(tmp_path, plan, [done(config, 90) for config in plan.choosing.values()])
    assert "| 90.00 (n=1) |" in text
    assert "90.00 ±" not in text


def test_the_spread_is_the_sample_standard_deviation(tmp_path: Path) -> None:
    accuracies = [91.25, 93.5, 92.75, 90.0]
    plan = planned(tmp_path, SMALL.replace("[0, 1]", "[0, 1, 2, 3]"))
    records = [done(trial(plan, 0, seed), accuracy) for seed, accuracy in enumerate(accuracies)]
    cell = cell_frame(StudyResults(standing_of(plan, places_in(tmp_path), records))).iloc[0]
    assert cell["std"] == pytest.approx(statistics.stdev(accuracies))
    assert cell["std"] != pytest.approx(statistics.pstdev(accuracies))
    assert cell["accuracy"] == pytest.approx(statistics.fmean(accuracies))


def test_under_the_rule_oracle_the_header_says_chosen_on_test(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, SEARCHED.replace("epochs: 2", "epochs: 2, protocol: paper") + "rule: oracle\n"
    )
    text = rendered(tmp_path, plan, [])
    assert (
        "Protocol: paper. Selection: chosen on test: highest mean test accuracy over the seeds."
        in text
    )
    assert "chosen on test" not in rendered(tmp_path, planned(tmp_path, SEARCHED), [])


@pytest.mark.parametrize(
    ("accuracy", "said", "shown"),
    [
        ("last", "the last epoch's;", "90.00"),
        ("best_validation", "the best validation epoch's;", "91.00"),
        ("oracle", "oracle, the best epoch's on test;", "92.00"),
    ],
)
def test_the_header_says_which_epoch_s_accuracy_stands_there(
    tmp_path: Path, accuracy: str, said: str, shown: str
) -> None:
    plan = planned(tmp_path, SMALL + f"accuracy: {accuracy}\n")
    records = [
        done(c, 90, at_best_validation=(91, 60), at_best_test=(92, 40))
        for c in plan.choosing.values()
    ]
    text = rendered(tmp_path, plan, records)
    assert f"Test accuracy in percent, {said}" in text
    assert text.count(f"{shown} ± 0.00 (n=2)") == 2


def test_an_override_is_named_above_the_table(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL, overrides={"epochs": 7, "lr": 0.01})
    assert "Changed from the file: epochs=7, lr=0.01." in rendered(tmp_path, plan, [])


def test_a_damaged_record_is_never_averaged(tmp_path: Path) -> None:
    plan, places = planned(tmp_path, SMALL), places_in(tmp_path)
    records = [done(trial(plan, 0, seed), 90) for seed in range(2)]
    standing_of(plan, places, records)
    path = places.trials / f"{records[0].identity}.json"
    path.write_bytes(path.read_bytes().replace(b"0.9", b"1.0"))
    assert "90.00 (n=1), missing (1 of 2)" in to_markdown(
        render(StudyResults(standing_of(plan, places, [])))
    )


def test_a_pipe_in_a_name_does_not_break_the_table(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, SMALL.replace("- arm: baseline+l2", '- {arm: baseline+l2, name: "a|b"}')
    )
    lines = [line for line in rendered(tmp_path, plan, []).splitlines() if line.startswith("|")]
    assert "a\\|b" in lines[2]
    assert len({len(line) for line in lines[:4]}) == 1


def test_the_csv_has_one_line_per_cell_and_numbers_in_percent(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWO_COLUMNS)
    records = [done(trial(plan, 1, seed), accuracy) for seed, accuracy in enumerate([60, 61, 65])]
    now = standing_of(plan, places_in(tmp_path), records)
    frame = pd.read_csv(StringIO(cell_frame(StudyResults(now)).to_csv(index=False)))
    assert list(frame.columns) == [
        "row",
        "arm",
        "column",
        "n",
        "planned",
        "accuracy",
        "std",
        "paper",
        "paper_difference",
        "candidates",
        "selected",
        "tied",
        "score",
        "problem",
        "note",
        "label_certain",
        "commits",
        "hardware",
        *EVIDENCE,
        *COLUMNS,
    ]
    assert list(zip(frame["row"], frame["arm"], frame["column"], strict=True)) == [
        ("baseline", "baseline", "left"),
        ("baseline", "baseline", "right"),
        ("D_AM", "E", "left"),
        ("D_AM", "E", "right"),
        ("D_AM", "E+H", "left"),
        ("D_AM", "E+H", "right"),
    ]
    cell = frame.iloc[1]
    assert (cell["n"], cell["planned"], cell["candidates"]) == (3, 3, 1)
    assert cell["note"] == "without l2, below resnet-20's 63.86"
    assert [cell[key] for key in ("accuracy", "std", "paper", "paper_difference")] == pytest.approx(
        [62, statistics.stdev([60, 61, 65]), 62.02, -0.02]
    )
    assert cell["hardware"] == CPU
    assert frame.iloc[0]["problem"] == "missing (3 of 3)"
    assert pd.isna(frame.iloc[0]["accuracy"])


def test_what_was_trained_on_a_part_of_the_training_set_is_not_set_against_the_paper(
    tmp_path: Path,
) -> None:
    plan = planned(
        tmp_path,
        TWO_COLUMNS.replace("config: {protocol: paper}\n", "").replace("rule: oracle\n", ""),
    )
    records = [done(trial(plan, 1, seed), 62) for seed in range(3)]
    cell = cell_frame(StudyResults(standing_of(plan, places_in(tmp_path), records))).iloc[1]
    assert (cell["accuracy"], cell["paper"]) == (pytest.approx(62), 62.02)
    assert pd.isna(cell["paper_difference"])


def test_saving_writes_the_same_table_and_cells_to_files(tmp_path: Path) -> None:
    plan, places = planned(tmp_path, SMALL), places_in(tmp_path)
    now = standing_of(plan, places, [done(trial(plan, 0, 0), 90)])
    page = render(StudyResults(now))
    files = save(page, places.table(plan.name))
    assert files["markdown"].read_text(encoding="utf-8") == to_markdown(page)
    assert files["csv"].read_text(encoding="utf-8") == cell_frame(StudyResults(now)).to_csv(
        index=False
    )
    assert files["markdown"].parent == places.results / "tables" / "small"


def test_a_table_is_made_without_torch_ray_and_mlflow() -> None:
    code = (
        "import study.reporting.tables, study.state.states, sys; print({'torch', 'ray', 'mlflow'} "
        "& set(sys.modules))"
    )
    done_ = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    assert done_.stdout == "set()\n"


def test_an_uncertain_label_of_the_paper_has_a_footnote(tmp_path: Path) -> None:
    text = TWO_COLUMNS.replace("paper_table: 2", "paper_table: 5").replace(
        "metric: am", "metric: hm_cos_arccos"
    )
    text = text.replace("model: resnet110", "model: resnet20")
    plan = planned(tmp_path, text)
    cell = cell_frame(StudyResults(standing_of(plan, places_in(tmp_path), []))).iloc[5]
    assert (cell["arm"], cell["paper"], cell["label_certain"]) == ("E+H", 68.83, False)
    assert (
        "] the paper's label of this row is uncertain: label reconstructed: the print repeats "
        "another row's label\n"
    ) in rendered(tmp_path, plan, [])


def test_super_class_accuracy_and_mistake_severity_have_tables_where_they_were_measured(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, SMALL)
    records = [done(trial(plan, 0, seed), 90) for seed in range(2)]
    above = [
        record.model_copy(
            update={
                "last": record.last.model_copy(
                    update={
                        "test_super_accuracy": 0.96 + 0.02 * record.seed,
                        "test_mistake_severity": 1.5,
                    }
                )
            }
        )
        for record in records
        if record.last is not None
    ]
    text = rendered(tmp_path, plan, above)
    assert text.endswith(
        "## Super-class accuracy in percent\n"
        "\n"
        "| metric      | arm | digits       |\n"
        "|-------------|-----|--------------|\n"
        "| baseline+l2 |     | 97.00 ± 1.41 |\n"
        "| cosine      | E   |              |\n"
        "\n"
        "## Average hierarchical distance (AHD): mean height in the class tree at which the "
        "answer and the right class meet, over all images\n"
        "\n"
        "| metric      | arm | digits        |\n"
        "|-------------|-----|---------------|\n"
        "| baseline+l2 |     | 0.150 ± 0.000 |\n"
        "| cosine      | E   |               |\n"
        "\n"
        "## Mistake severity: mean height in the class tree at which a wrong answer and the right "
        "one meet\n"
        "\n"
        "| metric      | arm | digits      |\n"
        "|-------------|-----|-------------|\n"
        "| baseline+l2 |     | 1.50 ± 0.00 |\n"
        "| cosine      | E   |             |\n"
    )
    assert "Super-class" not in rendered(tmp_path / "other", plan, records)


def test_a_table_of_the_best_test_epoch_says_what_is_not_kept_of_it(tmp_path: Path) -> None:
    sentence = "Predictions and probabilities of the best epoch on test are not kept"
    plan = planned(tmp_path, SMALL + "accuracy: oracle\n", "oracle")
    assert sentence in rendered(tmp_path, plan, [done(trial(plan, 0, 0), 96)])
    plan = planned(tmp_path, SMALL)
    assert sentence not in rendered(tmp_path, plan, [done(trial(plan, 0, 0), 96)])

"""The paper's printed accuracies and the configs by which they are found."""

import csv
from typing import Any

import pytest
from study_fixtures import ROOT

from dh2l.config.train_config import TrainConfig
from dh2l.registry.entries import METRICS
from study.spec.paper import printed_number

ROWS = list(
    csv.DictReader((ROOT / "study" / "spec" / "paper.csv").read_text(encoding="utf-8").splitlines())
)


def config_of(row: dict[str, str]) -> TrainConfig:
    """The config with which we would reproduce a printed cell."""
    values: dict[str, Any] = {"weight_decay": 0.0005 if row["l2"] == "1" else 0.0}
    if "E" in row["setting"].split("+"):
        values |= {"lambda_e": 0.1}
    if "H" in row["setting"].split("+"):
        values |= {"classifier": "hierarchical", "lambda_l": 0.5}
    if row["metric"] != "none":
        values |= {"metric": row["metric"]}
    if row["conv_metric"]:
        values |= {"conv_metric": row["conv_metric"], "e_scope": "conv"}
    config = TrainConfig.parse(values)
    return config.model_copy(update={"dataset": row["dataset"], "model": row["model"]})


def test_the_six_tables_are_there() -> None:
    assert {row["table"] for row in ROWS} == set("123456")
    assert len(ROWS) == 162


@pytest.mark.parametrize(
    "row",
    ROWS,
    ids=[
        "{table} {dataset} {model} {l2} {setting} {metric} {conv_metric}".format(**r) for r in ROWS
    ],
)
def test_every_printed_number_is_found_by_its_config(row: dict[str, str]) -> None:
    found = printed_number(int(row["table"]), config_of(row))
    assert found is not None
    assert (found.accuracy, found.note) == (float(row["accuracy"]), row["note"])
    assert found.label_certain == {"0": False, "1": True}[row["label_certain"]]
    assert found.display_label == row["display_label"]


def test_the_uncertain_labels_are_one_of_table_5_and_all_pairs_of_table_6() -> None:
    assert [
        (row["table"], row["display_label"]) for row in ROWS if row["label_certain"] == "0"
    ] == [
        ("5", "D'_HMcos"),
        *[
            ("6", f"({prime}_GM, {prime}_{mean})")
            for prime in ("D", "D'")
            for mean in ("AM", "GM", "HM")
        ],
    ]
    assert all(row["note"] for row in ROWS if row["label_certain"] == "0")


def test_the_copy_of_the_printed_numbers_has_the_counts_and_sums_of_the_paper_s_tables() -> None:
    """Each table has the number of its accuracies, and their sum in hundredths of a percent."""
    found = {
        table: (len(of_one), sum(round(100 * float(row["accuracy"])) for row in of_one))
        for table in "123456"
        if (of_one := [row for row in ROWS if row["table"] == table])
    }
    assert found == {
        "1": (16, 1465_31),
        "2": (40, 2823_52),
        "3": (48, 3575_08),
        "4": (40, 3472_10),
        "5": (10, 687_52),
        "6": (8, 548_46),
    }


def test_no_printed_cell_stands_twice() -> None:
    keys = [
        tuple(
            row[k] for k in ("table", "dataset", "model", "l2", "setting", "metric", "conv_metric")
        )
        for row in ROWS
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("table", range(1, 7))
@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "cub200", "cars"])
def test_the_paper_prints_nothing_for_h0(table: int, model: str, dataset: str) -> None:
    for values in (
        {"classifier": "hierarchical"},
        {"classifier": "hierarchical", "lambda_e": 0.1, "metric": "cosine"},
        {"classifier": "hierarchical", "lambda_e": 0.1, "metric": "gm", "conv_metric": "gm"},
    ):
        config = TrainConfig.parse(values).model_copy(update={"dataset": dataset, "model": model})
        assert config.arm in ("H0", "E+H0")
        assert printed_number(table, config) is None


def test_a_study_of_no_table_and_a_data_set_that_the_paper_lacks_have_no_number() -> None:
    config = TrainConfig(dataset="cifar100")
    assert printed_number(2, config) is not None
    assert printed_number(None, config) is None
    assert printed_number(2, TrainConfig(dataset="digits")) is None


def test_every_printed_metric_is_one_of_ours() -> None:
    assert {row[key] for row in ROWS for key in ("metric", "conv_metric")} - {"none", ""} <= set(
        METRICS
    )


def test_a_displayed_label_is_the_label_of_its_metric() -> None:
    for row in ROWS:
        if row["table"] != "6" and row["metric"] != "none":
            assert row["display_label"] == METRICS[row["metric"]].display_label

"""The accuracies of the paper, Tables 1 to 6."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from dh2l.config.train_config import TrainConfig


@dataclass(frozen=True)
class PrintedNumber:
    """One accuracy in the paper.

    Attributes:
        accuracy: the accuracy in percent.
        note: a doubt about the number, as a footnote of our tables; usually empty.
        label_certain: whether the paper prints this label, and for one row only.
        display_label: the row's label, with the primes that the order of rows and the text imply.
    """

    accuracy: float
    note: str
    label_certain: bool
    display_label: str


@cache
def _printed() -> dict[tuple[str, ...], PrintedNumber]:
    text = (resources.files("study.spec") / "paper.csv").read_text(encoding="utf-8")
    keys = ("table", "dataset", "model", "l2", "setting", "metric", "conv_metric")
    return {
        tuple(row[key] for key in keys): PrintedNumber(
            accuracy=float(row["accuracy"]),
            note=row["note"],
            label_certain=row["label_certain"] == "1",
            display_label=row["display_label"],
        )
        for row in csv.DictReader(text.splitlines())
    }


def printed_number(table: int | None, config: TrainConfig) -> PrintedNumber | None:
    """Return the number of the paper's table for a config; None if the table has none.

    Only Table 6 names another metric for the convolutions.
    """
    setting = "baseline" if config.arm.startswith("baseline") else config.arm
    has_metric = config.energy_on_classifier or config.regularised_hierarchy
    metric = config.metric if has_metric else None
    has_conv_metric = table == 6 and config.energy_on_convolutions
    conv_metric = config.conv_penalty if has_conv_metric else None
    key = (
        str(table),
        config.dataset,
        config.model,
        "1" if config.weight_decay else "0",
        setting,
        metric or "none",
        conv_metric or "",
    )
    return _printed().get(key)

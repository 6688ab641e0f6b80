"""The paper's printed accuracies, Tables 1 to 6."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from dh2l.config import TrainConfig


@dataclass(frozen=True)
class PrintedNumber:
    """One accuracy as the paper prints it.

    Attributes:
        accuracy: in percent.
        note: what is suspect about the cell, empty where nothing is; a footnote of our tables.
        label_certain: whether the row's label is the one that the paper prints, and the only one of its name.
        display_label: the row's label, with the primes that order and text call for.
    """

    accuracy: float
    note: str
    label_certain: bool
    display_label: str


@cache
def _printed() -> dict[tuple[str, ...], PrintedNumber]:
    text = (resources.files("study") / "paper.csv").read_text(encoding="utf-8")
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
    """What the paper's table prints for a cell, found by its config; None where it prints nothing.

    Table 6 alone names a metric for the convolutions of its own.
    """
    setting = "baseline" if config.arm.startswith("baseline") else config.arm
    metric = config.metric if config.energy_on_classifier or config.regularised_hierarchy else None
    conv_metric = config.conv_penalty if table == 6 and config.energy_on_convolutions else None
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

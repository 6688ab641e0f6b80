"""Bootstrap intervals of differences over test images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dh2l.errors import UserError
from study.analysis.statistics import Bools, paired_bootstrap, seed_of
from study.records.arrays import read_arrays
from study.records.loaded_records import LoadedRecords
from study.records.record import Record
from study.spec.schema import Study
from study.state.selection import CellResult

PREDICTIONS = {"last": "predictions.last", "best_validation": "predictions.best_validation"}
"""The stored predictions of the epoch that a study reports; of the best epoch on test there are
none."""
Predicted = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Predictions, one network's ``(images,)`` or several's ``(networks, images)``, and the labels
``(images,)``."""


class ImageIntervals:
    """Intervals over test images, from predictions that are read once per trial."""

    def __init__(self, study: Study, found: LoadedRecords) -> None:
        self.study, self.found = study, found
        self.read: dict[str, Predicted | None] = {}

    def interval(self, result: CellResult, reference: CellResult) -> tuple[float, float] | None:
        """Return the bounds of the difference in accuracy, in points, if they can be computed.

        Where test accuracy chose between candidates, an interval over these images would hide that:
        none.
        """
        cells = (result.cell, reference.cell)
        if self.study.rule == "oracle" and any(len(cell.candidates) > 1 for cell in cells):
            return None
        ours, theirs = (self._predicted(r.records) for r in (result, reference))
        if ours is None or theirs is None or not np.array_equal(ours[1], theirs[1]):
            return None
        seed = seed_of(*(name for cell in cells for name in cell.key))
        return paired_bootstrap(_right(*ours), _right(*theirs), seed=seed)

    def _predicted(self, records: Sequence[Record]) -> Predicted | None:
        """Return the predictions of some networks, if all of them were given the same images."""
        found = []
        for record in records:
            if record.identity not in self.read:
                self.read[record.identity] = self._stored(record)
            found.append(self.read[record.identity])
        of_all = [of_one for of_one in found if of_one is not None]
        if not of_all or len(of_all) < len(found):
            return None
        labels = of_all[0][1]
        if any(not np.array_equal(labels, others) for _, others in of_all):
            return None
        return np.stack([predictions for predictions, _ in of_all]), labels

    def _stored(self, record: Record) -> Predicted | None:
        """Read predictions and labels of one trial, at the epoch that the study reports."""
        try:
            arrays = read_arrays(record, self.found.paths[record.identity])
        except UserError:
            return None
        predictions, labels = (
            arrays.get(PREDICTIONS.get(self.study.accuracy, "")),
            arrays.get("labels"),
        )
        if predictions is None or labels is None or predictions.shape != labels.shape:
            return None
        return predictions, labels


def _right(predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Bools:
    right: Bools = predictions == labels
    return right

"""Scores of a search's candidates against the values of each searched axis."""

import statistics

import pandas as pd

from study.selection import choose, score
from study.states import Standing, State

COLUMNS = ["row", "arm", "column", "axis", "value", "score", "std", "n", "selected"]


def response_frame(standing: Standing) -> pd.DataFrame:
    """One row per finished candidate and axis, of the cells that search.

    Columns: `row`, `arm`, `column`; `axis` and the candidate's `value` of it; `score`, what the rule compares, in
    percent, mean over `n` seeds, and its sample standard deviation `std`; `selected`, whether the rule chose it.
    """
    study, records = standing.plan.file.study, standing.found.records
    rows = []
    for cell in standing.plan.cells:
        if len(cell.candidates) < 2:
            continue
        chosen = choose(cell, standing).candidate
        for candidate in cell.candidates:
            if any(standing.states[i] is not State.DONE for i in candidate.trials):
                continue
            scores = [100 * score(records[i], study) for i in candidate.trials]
            std = statistics.stdev(scores) if len(scores) > 1 else None
            numbers = (statistics.fmean(scores), std, len(scores), candidate is chosen)
            rows += [(cell.row, cell.arm, cell.column, axis, v, *numbers) for axis, v in candidate.values.items()]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"std": "float64"})

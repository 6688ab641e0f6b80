"""Published results, rendered from the records beside this file.

    python results/published/render.py

Every folder here that is named like a shipped study is a results folder. Its table, its finished
trials and its learning curves go into README.md, the cells and the curves into files beside it.
"""

import sys
from pathlib import Path

import pandas as pd

from dh2l.config.identity import NUMERICS, numerics_of, under_numerics
from dh2l.config.train_config import TrainConfig
from study.analysis.frames import trial_frame
from study.analysis.learning_curves import curve_frame
from study.records.paths import Places
from study.records.store import RecordStore
from study.reporting import figures
from study.reporting.cell_text import number
from study.reporting.page import pipe_table, to_markdown
from study.reporting.tables import render
from study.spec.study_file import shipped_studies
from study.state.load import open_study
from study.state.results import StudyResults
from study.state.study_state import StudyState

HERE = Path(__file__).resolve().parent
INTRODUCTION = """# Published results

The results that this project stands behind, with their records: `dh2l-study table STUDY --results
results/published/STUDY` makes each table again, `replay ID` trains a record's trial again. This
page is rendered by `python results/published/render.py`; a test holds that it is what the records
give. A study whose trials are still being trained is shown as far as it is.
"""
CURVES = {
    "test_accuracy": "test accuracy, %",
    "cosine_r_p_2": "mean cosine between classes of one super-class",
}
"""Metrics whose curves are drawn, and what their axes say."""
TRIALS = ["metric", "arm", "stage", "seed", "λe", "λl", "validation, %", "hours"]


def main(source: Path = HERE, target: Path = HERE) -> int:
    """Write README.md and its files into a folder, from the records in another."""
    parts = [INTRODUCTION]
    for name in sorted(shipped_studies()):
        folder = source / name
        if (folder / "manifests").is_dir():
            with under_numerics(_numerics(folder)):
                parts += _section(name, _state(name, folder), target)
    (target / "README.md").write_text("\n".join(parts), encoding="utf-8")
    return 0


def _numerics(folder: Path) -> int:
    """Find the numerics of the records in a results folder; later code may have raised it."""
    for record in RecordStore(folder / "trials").read().records.values():
        return numerics_of(TrainConfig.parse(record.config), record.identity)
    return NUMERICS


def _state(name: str, folder: Path) -> StudyState:
    def refuse(sentence: str) -> None:
        raise SystemExit(f"{name}: {sentence}")

    def ignore(sentence: str) -> None:
        """Accept that the data set itself is not here."""

    return open_study(name, [], Places.of(folder, folder / "data"), note=ignore, warn=refuse)


def _section(name: str, state: StudyState, target: Path) -> list[str]:
    results = StudyResults(state)
    page = render(results)
    (target / f"{name}.csv").write_text(page.frame.to_csv(index=False), encoding="utf-8")
    done, total = state.counts.get("done", 0), len(state.states)
    lines = [to_markdown(page).replace("\n## ", "\n### ").replace("# ", "## ", 1)]
    curves = curve_frame(results.cells, results.found)
    if len(curves):
        arms = list(dict.fromkeys(cell.key.arm for cell in results.cells))
        for metric, what in CURVES.items():
            caption = (
                f"{name}: {what} over epochs, mean over seeds, shaded ± 1 sample standard deviation"
            )
            drawn = figures.learning_curves(curves, metric, what, arms)
            file = f"{name}-{metric.replace('_', '-')}"
            (target / f"{file}.svg").write_text(
                figures.to_svg(drawn, file, caption), encoding="utf-8"
            )
            lines += [f"![{caption}]({file}.svg)\n"]
    lines += [
        f"### Trials\n\n{done} of {total} trials known so far are done; the file `{name}.csv` has "
        "the cells.\n"
    ]
    if done:
        lines += ["\n".join(pipe_table([TRIALS, *_trials(trial_frame(results))])) + "\n"]
    return lines


def _trials(frame: pd.DataFrame) -> list[list[str]]:
    """Return a row for each finished trial.

    Test accuracies of trials that choose are left out, because they decide nothing.
    """
    done = frame[frame["state"] == "done"]
    return [
        [
            str(trial["row"]),
            str(trial["arm"]),
            str(trial["stage"]),
            str(trial["seed"]),
            f"{trial['lambda_e']:g}" if trial["lambda_e"] else "",
            f"{trial['lambda_l']:g}" if trial["lambda_l"] else "",
            number(trial["validation_accuracy"]),
            number(trial["duration_s"] / 3600),
        ]
        for trial in done.to_dict("records")
    ]


if __name__ == "__main__":
    sys.exit(main())

"""Measures of probabilities in frames, tables and MLflow, against the kept probabilities
themselves.
"""

import hashlib
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, top_k_accuracy_score
from study_fixtures import CommandLine, write_study

from dh2l.data import read_manifest
from study.analysis.frames import cell_frame, cells_of, trial_frame
from study.analysis.quality import trial_measures
from study.execution.observers import Observers
from study.execution.training import run_locally
from study.records.paths import Places
from study.records.record import Record, parse_record
from study.records.store import RecordStore
from study.reporting.export import exported
from study.reporting.html import report_html
from study.reporting.latex import Look
from study.reporting.page import to_markdown
from study.reporting.tables import render
from study.state.load import open_study, open_study_to_run
from study.state.results import StudyResults
from study.state.study_state import StudyState
from study.tracking.payload import cell_metrics, scalars

STUDY = """
title: quality
config: {dataset: digits, epochs: 2, batch_size: 64}
columns: [{name: digits, set: {model: resnet20}}]
rows:
  - {arm: baseline+l2}
  - {arm: E+H, metric: cosine, set: {lambda_e: 0.1, lambda_l: 0.1}}
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> tuple[Path, Places]:
    """A study whose four trials were trained."""
    folder = tmp_path_factory.mktemp("quality")
    file, places = write_study(folder, STUDY, "quality"), Places.of(folder / "results", digits)
    now = open_study_to_run(str(file), [], places, warn=pytest.fail)
    run_locally(now.plan.choosing.values(), places, Observers([]), threads=1)
    return file, places


def standing_of(file: Path, places: Places) -> StudyState:
    return open_study(str(file), [], places, note=pytest.fail, warn=pytest.fail)


def bins(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins, one after the other."""
    edges, error = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def test_each_number_is_that_of_the_kept_probabilities(trained: tuple[Path, Places]) -> None:
    file, places = trained
    now, store = standing_of(file, places), RecordStore(places.trials)
    paths = read_manifest("digits", places.data).classes
    rows = {row["trial"]: row for row in trial_frame(StudyResults(now)).to_dict("records")}
    for identity, record in now.found.records.items():
        kept = store.read_probabilities(record)
        assert kept is not None
        logs, labels = kept["test.last"].astype(np.float64), kept["test.labels"].astype(int)
        probabilities = np.exp(logs)
        row, classes = rows[identity], list(range(len(paths)))
        assert row["nll"] == pytest.approx(
            log_loss(
                labels, probabilities / probabilities.sum(axis=1, keepdims=True), labels=classes
            ),
            abs=1e-3,
        )
        assert row["nll"] == pytest.approx(record.last.test_loss if record.last else None, abs=1e-3)
        assert row["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, logs, k=5), abs=0.1)
        predicted = logs.argmax(axis=1)
        assert row["ece"] == pytest.approx(
            100 * bins(probabilities.max(axis=1), predicted == labels), abs=0.1
        )
        heights = [
            0 if a == b else 1 if paths[a][0] == paths[b][0] else 2
            for a, b in zip(labels, predicted, strict=True)
        ]
        assert row["ahd"] == pytest.approx(np.mean(heights), abs=1e-3)
        assert row["ahd"] == pytest.approx(
            row["mistake_severity"] * (1 - row["accuracy"] / 100), abs=1e-3
        )


def test_the_table_shows_means_over_seeds_and_ahd_before_severity(
    trained: tuple[Path, Places],
) -> None:
    now = standing_of(*trained)
    frame, text = cell_frame(StudyResults(now)), to_markdown(render(StudyResults(now)))
    assert text.index("Average hierarchical distance") < text.index("Mistake severity")
    section = text[text.index("## Probabilities and decisions") :]
    for word in ("NLL", "ECE, %", "top-5, %", "CRM accuracy, %", "15 equal-width bins"):
        assert word in section
    for _, cell in frame.iterrows():
        assert f"{cell['nll']:.3f} ± {cell['nll_std']:.3f}" in section
        assert f"{cell['ahd']:.3f} ± {cell['ahd_std']:.3f}" in text
        assert f"{cell['ece']:.2f} ± {cell['ece_std']:.2f}" in section
    values = [trial_measures(record.last)["ece"] for record in now.found.records.values()]
    assert frame["ece"].mean() == pytest.approx(
        np.mean([value for value in values if value is not None])
    )
    latex = exported(StudyResults(now), "latex", look=Look(bold=True)).decode()
    best = min(frame["nll"])
    assert f"\\textbf{{{best:.3f}" in latex


def test_the_report_draws_the_cosine_between_classes_of_one_parent_for_every_arm(
    trained: tuple[Path, Places],
) -> None:
    assert "Cosine between classes of one parent" in report_html(
        StudyResults(standing_of(*trained))
    )


def test_mlflow_shows_the_measures_of_each_trial(trained: tuple[Path, Places]) -> None:
    now = standing_of(*trained)
    record = next(iter(now.found.records.values()))
    found = {point.name: point.value for point in scalars(record)}
    measured = record.last.test_probabilities if record.last else None
    assert measured is not None
    assert found["test_nll_last"] == measured.nll
    assert found["test_ahd_last"] == measured.ahd
    assert found["test_level_1_accuracy_last"] == measured.level_accuracies[0]


def test_mlflow_tells_cells_apart_whose_distances_differ_in_the_third_digit(
    trained: tuple[Path, Places],
) -> None:
    cell = cells_of(cell_frame(StudyResults(standing_of(*trained))))[0]
    values = {"ahd": 0.0676, "nll": 0.0704, "crm_ahd": 0.1234, "crm_mistake_severity": 1.2345}
    metrics = cell_metrics(cell | values)
    assert [metrics[name] for name in values] == [0.068, 0.07, 0.123, 1.23]


def of_version_2(content: bytes) -> bytes:
    """The record as version 2 wrote it, which knew nothing of probabilities."""
    record = json.loads(content)["record"]
    record["version"] = 2
    del record["probabilities_sha256"]
    for which in ("last", "best_validation", "best_test"):
        del record[which]["test_probabilities"]
    body = json.dumps(record, indent=1).encode()
    return (
        f'{{"checksum": "{hashlib.sha256(body).hexdigest()}", "record":\n'.encode() + body + b"}\n"
    )


def test_records_of_before_render_sync_and_replay(
    trained: tuple[Path, Places], tmp_path: Path, cli: CommandLine
) -> None:
    file, places = trained
    older = Places.of(tmp_path / "results", places.data)
    older.trials.mkdir(parents=True)
    for path in sorted(Path(str(places.trials)).iterdir()):
        content = path.read_bytes()
        target = Path(str(older.trials)) / path.name
        target.write_bytes(of_version_2(content) if path.suffix == ".json" else content)
    records: list[Record] = [parse_record(path) for path in Path(str(older.trials)).glob("*.json")]
    assert {record.version for record in records} == {2}
    words = ["--results", older.results, "--data", older.data]
    code, printed, error = cli("table", file, *words, placed=False)
    assert (code, error) == (0, "")
    assert re.search(r"E\+H +\| \d\d\.\d\d ± ", printed)
    assert "Probabilities and decisions" not in printed
    assert cli("report", file, *words, placed=False)[0] == 0
    assert cli("mlflow", "sync", file, *words, placed=False)[0] == 0
    code, printed, _ = cli("replay", records[0].identity, *words, placed=False)
    assert code == 0, printed
    assert all(
        math.isnan(value) for value in cell_frame(StudyResults(standing_of(file, older)))["nll"]
    )


def test_a_cell_with_one_record_of_before_shows_ahd_alone_and_says_why(
    trained: tuple[Path, Places], tmp_path: Path, cli: CommandLine
) -> None:
    file, places = trained
    mixed = Places.of(tmp_path / "results", places.data)
    shutil.copytree(str(places.trials), str(mixed.trials))
    first = next(iter(standing_of(file, places).plan.choosing))
    path = Path(str(mixed.trials)) / f"{first}.json"
    path.write_bytes(of_version_2(path.read_bytes()))
    results, before = (StudyResults(standing_of(file, p)) for p in (mixed, places))
    frame, whole = cell_frame(results), cell_frame(before)
    assert frame["n"].tolist() == [2, 2]
    for name in ("nll", "ece", "top5", "crm_ahd", "crm_accuracy", "nll_std"):
        assert math.isnan(frame[name][0])
        assert frame[name][1] == whole[name][1]
    assert frame["ahd"].tolist() == pytest.approx(whole["ahd"].tolist(), abs=1e-3)
    code, printed, _ = cli(
        "table", file, "--results", mixed.results, "--data", mixed.data, placed=False
    )
    assert code == 0
    assert "Trials that lack one: baseline+l2, digits (1 of 2)." in printed.replace("\n", " ")
    assert "Trials that lack one" not in to_markdown(render(before))

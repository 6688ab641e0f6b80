"""The harness from Python: run, table, frame, records and network, also in a notebook."""

import json
import warnings
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
import torch
from study_fixtures import write_study

import study
from dh2l.data import load
from dh2l.errors import UserError
from study.execution.shards import Shard

SMALL = """
title: From Python
config: {dataset: digits, epochs: 2, batch_size: 256}
columns: [{name: digits, set: {model: resnet20}}]
rows: [{arm: baseline+l2}, {arm: E, metric: cosine, set: {lambda_e: 0.1}}]
seeds: [0]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("python"), SMALL, "python")


@pytest.fixture(scope="module")
def results(file: Path, digits: Path) -> Path:
    folder = file.parent / "results"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = study.run(file, results=folder, data=digits, shard=Shard(1, 1), keep=True)
    assert outcome.ending == "complete"
    assert [cell.problem for cell in outcome.results.cells] == ["", ""]
    return folder


def test_a_run_from_python_leaves_what_the_other_functions_read(
    file: Path, results: Path, digits: Path
) -> None:
    state = study.plan(file, results=results, data=digits)
    assert state.counts == {"done": 2}
    records = study.load_records(file, results=results, data=digits)
    assert list(records) == list(state.states)
    cells = study.frame(file, results=results, data=digits)
    tests = [record.last.test_accuracy for record in records.values() if record.last]
    assert cells["accuracy"].tolist() == pytest.approx([100 * value for value in tests])


def test_a_table_shows_itself_as_text_markdown_and_html(
    file: Path, results: Path, digits: Path
) -> None:
    page = study.table(file, results=results, data=digits)
    assert str(page) == page._repr_markdown_()
    assert str(page).startswith("# From Python\n")
    shown = page._repr_html_()
    assert shown.count("<table>") == len(page.tables)
    assert "<h3>From Python</h3>" in shown


def test_a_kept_network_evaluates_as_its_record_says(
    file: Path, results: Path, digits: Path
) -> None:
    records = study.load_records(file, results=results, data=digits)
    identity, record = next(iter(records.items()))
    network = study.network(identity, results=results)
    prepared = load("digits", digits)
    with torch.inference_mode():
        answers = network(torch.from_numpy(np.array(prepared.test_x))).argmax(dim=1)
    right = np.mean(answers.numpy() == prepared.test_y)
    assert record.last is not None
    assert right == pytest.approx(record.last.test_accuracy)


def test_mistakes_are_sentences(file: Path, results: Path, digits: Path) -> None:
    with pytest.raises(UserError, match="unknown option of a run 'max_failure'; did you mean"):
        study.run(file, results=results, data=digits, max_failure=1)
    with pytest.raises(UserError, match="Pass \\['epochs=3'\\]"):
        study.run(file, results=results, data=digits, overrides="epochs=3")
    with pytest.raises(UserError, match="--shard trains in this process"):
        study.run(file, results=results, data=digits, shard=Shard(1, 1), max_gpu_hours=1.0)
    with pytest.raises(UserError, match=r"no record under .* is of a trial 'nobody'"):
        study.network("nobody", results=results)


def test_a_notebook_runs_a_study_and_shows_its_table(
    file: Path, digits: Path, tmp_path: Path
) -> None:
    where = f"results={str(tmp_path / 'results')!r}, data={str(digits)!r}"
    cells = [
        "import study",
        f"outcome = study.run({str(file)!r}, {where}, track=False)\noutcome.ending",
        f"study.table({str(file)!r}, {where})",
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells]
    )
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    ending, table = (notebook.cells[number].outputs[-1]["data"] for number in (1, 2))
    assert json.dumps(ending["text/plain"]) == "\"'complete'\""
    assert table["text/markdown"].startswith("# From Python\n")
    assert "<h3>From Python</h3>" in table["text/html"]

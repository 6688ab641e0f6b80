"""Makers of studies, records and command lines for the tests of the harness."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from dh2l.config.train_config import TrainConfig
from dh2l.data.manifest import FILES, FileRecord, Manifest
from dh2l.tree import ClassTree
from study.cli import main
from study.records.paths import Places
from study.records.record import Failure, Provenance, Record, Scores
from study.records.store import RecordStore
from study.spec.plan import Plan, make_plan
from study.spec.study_file import StudyFile
from study.state.load import read_state
from study.state.study_state import StudyState

ROOT = Path(__file__).parents[2]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CPU = "a processor"

SMALL = """\
title: A small study
config: {dataset: digits, epochs: 2, batch_size: 256}
columns:
  - {name: digits, set: {model: resnet20}}
rows:
  - arm: baseline+l2
  - {arm: E, metric: cosine, set: {lambda_e: 0.1}}
seeds: [0, 1]
"""
"""Two rows, one column, two seeds: four trials."""

SEARCHED = """\
title: A searched study
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: E}]
seeds: [0, 1]
search:
  lambda_e: {grid: [0.1, 1, 10]}
"""

TWO_STAGES = """\
title: Two stages
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: baseline+l2}, {arm: E}]
seeds: [0, 1]
confirm: {seeds: [10, 11, 12]}
search:
  lambda_e: {grid: [0.1, 1]}
"""

SEARCH = """\
title: A search
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: baseline+l2}, {arm: E+H, set: {lambda_l: 0.1}}]
seeds: [0, 1]
searcher: {trials: 5}
search:
  lambda_e: {loguniform: [0.001, 1]}
  centres: {choice: [learned, parent]}
  centre_scale: {uniform: [0.1, 0.9], when: {centres: parent}}
"""

STOPPING = """\
title: Losers are stopped
config: {dataset: digits, epochs: 3, batch_size: 64, metric: cosine, lambda_e: 0.1}
columns: [{name: digits}]
rows: [{arm: E}]
seeds: [0]
search:
  lr: {grid: [0.05, 1e-7, 1e-8]}
scheduler: {kind: asha, reduction_factor: 2}
"""
"""One cell with three candidates of two seeds each."""


def write_study(folder: Path, text: str, name: str = "small") -> Path:
    """A study file."""
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def made_manifest(
    name: str, classes: tuple[tuple[str, ...], ...] = (("a", "0"), ("a", "1"), ("b", "2"))
) -> Manifest:
    """The manifest of a data set that does not exist: plans need no more."""
    return Manifest(
        name=name,
        source="made up",
        classes=classes,
        image_shape=(8, 8, 1),
        n_train=30,
        n_test=12,
        mean=(0.5,),
        std=(0.25,),
        flip=True,
        crop_padding=4,
        files={file: FileRecord(bytes=1, sha256="0" * 64) for file in FILES},
        data_hash=(name.encode().hex() * 32)[:64],
        tree_hash=ClassTree(classes).hash,
    )


def planned(
    folder: Path, text: str, name: str = "small", overrides: dict[str, Any] | None = None
) -> Plan:
    """The plan of a study over made-up data."""
    return make_plan(StudyFile(write_study(folder, text, name), overrides), made_manifest)


def places_in(folder: Path) -> Places:
    """Places below a folder."""
    return Places.of(folder / "results", folder / "data")


def scores(test: float, validation: float | None = None, epoch: int = 2) -> Scores:
    """Scores of one epoch; accuracies in percent."""
    return Scores(
        epoch=epoch,
        test_accuracy=test / 100,
        test_loss=1.0,
        test_super_accuracy=None,
        test_mistake_severity=None,
        validation_accuracy=None if validation is None else validation / 100,
        validation_loss=None if validation is None else 1.0,
    )


def _provenance(commit: str | None, dirty: bool, cpu: str) -> Provenance:
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions={"python": "3.13"},
        hardware={"cpu": cpu, "gpu": None},
        attempts=[{"device": "cpu", "threads": 1, "first_epoch": 1, "seconds": 2.5}],
        started="2025-01-01T00:00:00+00:00",
        finished="2025-01-01T00:01:00+00:00",
        duration_s=2.5,
    )


def done(
    config: TrainConfig,
    test: float,
    validation: float | None = 50,
    *,
    at_best_validation: tuple[float, float] | None = None,
    at_best_test: tuple[float, float] | None = None,
    commit: str | None = COMMIT,
    dirty: bool = False,
    cpu: str = CPU,
) -> Record:
    """A finished trial's record: test and validation accuracy in percent at the last epoch, and at
    the two best.
    """
    last = scores(test, validation)
    return Record(
        identity=config.identity,
        state="done",
        config=config.model_dump(mode="json"),
        seed=config.seed,
        parameters=1000,
        last=last,
        best_validation=scores(*at_best_validation, epoch=1) if at_best_validation else last,
        best_test=scores(*at_best_test, epoch=1) if at_best_test else last,
        failure=None,
        provenance=_provenance(commit, dirty, cpu),
        arrays_sha256=None,
    )


def unfinished(config: TrainConfig, state: Literal["diverged", "failed", "stopped"]) -> Record:
    """The record of a trial that gave no scores."""
    message = {
        "diverged": "the energy became non-finite in epoch 1",
        "failed": "disk on fire",
        "stopped": "stopped early by the scheduler",
    }[state]
    term = "energy" if state == "diverged" else None
    return Record(
        identity=config.identity,
        state=state,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        parameters=None,
        last=None,
        best_validation=None,
        best_test=None,
        failure=Failure(kind=state.capitalize(), message=message, epoch=1, term=term),
        provenance=_provenance(COMMIT, False, CPU),
        arrays_sha256=None,
    )


def standing_of(plan: Plan, places: Places, records: list[Record]) -> StudyState:
    """The plan's standing with these records filed."""
    store = RecordStore(places.trials)
    for record in records:
        store.write(record)
    return read_state(plan, places)


def candidate_configs(plan: Plan, cell: int = 0) -> list[list[TrainConfig]]:
    """The configs of a cell: candidate by candidate, seed by seed."""
    return [[plan.choosing[identity] for identity in c.trials] for c in plan.cells[cell].candidates]


class CommandLine:
    """Calls `dh2l-study` in this process."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], places: Places
    ) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.places = places

    def __call__(
        self, *words: object, results: Path | None = None, placed: bool = True
    ) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command, with `--results` and `--data` added unless
        `placed` is off.
        """
        where = (
            ["--results", results or self.places.results, "--data", self.places.data]
            if placed
            else []
        )
        self._monkeypatch.setattr(sys, "argv", ["dh2l-study", *map(str, words), *map(str, where)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        code = ended.value.code
        return (
            (code if isinstance(code, int) else 0 if code is None else 1),
            captured.out,
            captured.err,
        )

    def mistake(self, *words: object, results: Path | None = None, placed: bool = True) -> str:
        """The one sentence on stderr of a command that ends as the user's mistake."""
        code, _, error = self(*words, results=results, placed=placed)
        assert code == 2, error
        lines = [line for line in error.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("  ")]  # an excerpt of a file
        assert len(lines) == 1, error
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def checksummed(body: str) -> bytes:
    """A record's file around a body, with the checksum that fits it."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"checksum": "{digest}", "record":\n{body}}}\n'.encode()


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would redirect the harness, for a subprocess."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MLFLOW_", "DH2L_", "RAY_", "TUNE_"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | more


def command(
    *words: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m study ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "study", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment or clean_environment(),
        check=False,
    )

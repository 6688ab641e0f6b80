"""Fixtures of the harness's tests: places of their own, data prepared once, no variables that
redirect them.
"""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import two_nodes
from study_fixtures import CommandLine, places_in

from dh2l.data import DATA_SETS, prepare
from dh2l.registry import register as registry
from dh2l.registry.entries import METRICS, MODELS
from study.records.paths import Places
from study.tracking.uri import store_file

REDIRECTING = (
    "DH2L_RESULTS",
    "DH2L_DATA",
    "DH2L_PLUGINS",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_TAGS",
)


NOT_OF_THE_MACHINE = (
    "needs a CUDA device",
    "needs a C++ compiler",
    "a setting of the GNU C library",
    "needs a TeX",
)
"""Reasons to skip that no installation mends, or one of gigabytes alone."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration a test that skips itself has failed, but for want of hardware, a
    compiler or TeX.
    """
    report = yield
    if os.environ.get("CI") and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in NOT_OF_THE_MACHINE:
            report.outcome, report.longrepr = "failed", f"skipped where nothing may be: {reason}"
    return report


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests redirects results, data or MLflow."""
    for name in REDIRECTING:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_data_sets() -> Iterator[None]:
    """A data set that a test registers or plants is gone after it, because other files' tests list
    what is known.
    """
    before = dict(DATA_SETS)
    yield
    DATA_SETS.clear()
    DATA_SETS.update(before)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Forget what a test registers or loads as a plugin."""
    registries: tuple[dict[str, Any], ...] = (METRICS, registry.REGULARISERS, MODELS)
    before, modules = [dict(known) for known in registries], set(sys.modules)
    yield
    for known, kept in zip(registries, before, strict=True):
        known.clear()
        known.update(kept)
    for name in [
        name for name in sys.modules if name.startswith("dh2l_plugin_") and name not in modules
    ]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prepared digits, to read only."""
    root = tmp_path_factory.mktemp("data")
    prepare("digits", root)
    return root


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow store's database, to copy: to make one takes seconds."""
    from study.tracking.database import (
        prepare as prepare_store,
    )  # it imports MLflow, which most tests do without

    places = places_in(tmp_path_factory.mktemp("mlflow"))
    prepare_store(places)
    return store_file(places)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes on this machine."""
    with two_nodes() as address:
        yield address


@pytest.fixture
def empty(tmp_path: Path) -> Places:
    """Places with nothing in them, not even data."""
    return places_in(tmp_path)


@pytest.fixture
def places(tmp_path: Path, digits: Path) -> Places:
    """Places without results, with the prepared digits."""
    return Places.of(tmp_path / "results", digits)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], places: Places
) -> CommandLine:
    """The command line over `places`."""
    return CommandLine(monkeypatch, capsys, places)

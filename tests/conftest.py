"""Fixtures of the harness's tests: places of their own, data prepared once, no variables that redirect them."""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import two_nodes
from study_fixtures import CommandLine, places_in

from dh2l import registry
from dh2l.data import prepare
from dh2l.names import METRICS, MODELS
from study.places import Places

REDIRECTING = (
    "DH2L_RESULTS",
    "DH2L_DATA",
    "DH2L_PLUGINS",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_TAGS",
)


NOT_OF_THE_MACHINE = ("needs a CUDA device", "needs a C++ compiler", "a setting of the GNU C library")
"""Reasons to skip that no installation mends."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration a test that skips itself has failed, but for want of hardware or a compiler."""
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


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a test registers or loads as a plugin is gone after it."""
    registries: tuple[dict[str, Any], ...] = (METRICS, registry.REGULARISERS, MODELS)
    before, modules = [dict(known) for known in registries], set(sys.modules)
    yield
    for known, kept in zip(registries, before, strict=True):
        known.clear()
        known.update(kept)
    for name in [name for name in sys.modules if name.startswith("dh2l_plugin_") and name not in modules]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prepared digits, to read only."""
    root = tmp_path_factory.mktemp("data")
    prepare("digits", root)
    return root


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
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], places: Places) -> CommandLine:
    """The command line over `places`."""
    return CommandLine(monkeypatch, capsys, places)

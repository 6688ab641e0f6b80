"""Records are read and plans made while cyclic garbage collection is paused; afterwards it is as
before.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from study_fixtures import SMALL, done, places_in, planned

from study.records.store import RecordStore
from study.state.load import read_state


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_records_collects_nothing_and_leaves_the_collector_as_it_was(
    tmp_path: Path, enabled: bool
) -> None:
    plan, places = planned(tmp_path, SMALL), places_in(tmp_path)
    for config in plan.choosing.values():
        RecordStore(places.trials).write(done(config, 50))
    read_state(plan, places)  # what is imported on the way is imported now
    gc.set_threshold(10)
    if not enabled:
        gc.disable()
    try:
        before = collections()
        state = read_state(plan, places)
        assert collections() - before <= 1
    finally:
        gc.set_threshold(700, 10, 10)
    assert state.counts == {"done": 4}
    assert gc.isenabled() == enabled


def test_an_error_leaves_the_collector_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no such disk")

    plan, places = planned(tmp_path, SMALL), places_in(tmp_path)
    monkeypatch.setattr(RecordStore, "read", refuse)
    with pytest.raises(OSError, match="no such disk"):
        read_state(plan, places)
    assert gc.isenabled()

"""While much is made that lasts, no garbage is looked for; afterwards it is as before."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from study_fixtures import SMALL, done, made_manifest, places_in, planned, write_study

from dh2l.data.manifest import Manifest
from study.plan import make_plan
from study.records import RecordStore
from study.standing import standing
from study.studyfile import StudyFile
from study.uncollected import uncollected


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_the_collector_rests_and_works_again_also_after_an_error() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="mine"), uncollected():
        raise ValueError("mine")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_it_rests_while_a_plan_is_made(tmp_path: Path) -> None:
    seen = []

    def manifest_of(name: str) -> Manifest:
        seen.append(gc.isenabled())
        return made_manifest(name)

    make_plan(StudyFile(write_study(tmp_path, SMALL)), manifest_of)
    assert seen
    assert not any(seen)
    assert gc.isenabled()


def test_it_rests_while_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, places = planned(tmp_path, SMALL), places_in(tmp_path)
    for config in plan.configs.values():
        RecordStore(places.trials).write(done(config, 50))
    seen, read = [], RecordStore.read

    def watched(self: RecordStore, *words: object) -> object:
        seen.append(gc.isenabled())
        return read(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(RecordStore, "read", watched)
    assert standing(plan, places).counts == {"done": 4}
    assert seen == [False]
    assert gc.isenabled()

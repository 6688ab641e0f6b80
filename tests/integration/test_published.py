"""The published results: the committed page is what the committed records give."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from study_fixtures import ROOT, done

from dh2l.config.identity import NUMERICS, under_numerics
from study.records.paths import Places
from study.records.record import parse_record
from study.records.store import RecordStore
from study.state.load import open_study

PUBLISHED = ROOT / "results" / "published"
STUDIES = sorted(path.parent.name for path in PUBLISHED.glob("*/manifests"))


@pytest.fixture(scope="module")
def render() -> ModuleType:
    """The script beside the records."""
    found = importlib.util.spec_from_file_location("render", PUBLISHED / "render.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_is_what_the_records_give(render: ModuleType, tmp_path: Path) -> None:
    assert render.main(PUBLISHED, tmp_path) == 0
    for made in tmp_path.iterdir():
        if made.suffix != ".svg":  # whose numbers are rounded by the fonts of a machine
            assert made.read_text(encoding="utf-8") == (PUBLISHED / made.name).read_text(
                encoding="utf-8"
            )
        assert (PUBLISHED / made.name).exists()


@pytest.mark.parametrize("study", STUDIES)
def test_every_published_record_is_sound_has_its_arrays_and_was_made_by_a_commit(
    study: str,
) -> None:
    store = RecordStore(PUBLISHED / study / "trials")
    found = store.read()
    assert found.warnings() == []
    for path in found.paths.values():
        record = parse_record(path)
        assert record.state == "done"
        assert record.provenance.commit is not None
        assert not record.provenance.dirty
    sizes = [path.stat().st_size for path in (PUBLISHED / study).rglob("*") if path.is_file()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 60_000_000


@pytest.mark.parametrize("numerics", [NUMERICS, NUMERICS - 1])
def test_a_finished_study_is_rendered_with_its_tests_and_curves(
    numerics: int, render: ModuleType, tmp_path: Path
) -> None:
    """Under the numerics that its records carry, too, where later code has raised them."""
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    (source / "cifar100_budget").mkdir(parents=True)
    shutil.copytree(
        PUBLISHED / "cifar100_budget" / "manifests", source / "cifar100_budget" / "manifests"
    )
    places = Places.of(source / "cifar100_budget", source / "nowhere")
    store, random = RecordStore(places.trials), np.random.default_rng(0)
    with under_numerics(numerics):
        now = open_study("cifar100_budget", [], places, note=lambda _: None, warn=pytest.fail)
        for config in (*now.plan.choosing.values(), *now.plan.confirming.values()):
            curve = random.uniform(0.5, 0.6, config.epochs)
            validation = 55.0 + config.lambda_e if config.protocol == "validated" else None
            curves = {"history.test_accuracy": curve, "history.cosine_r_p_2": curve}
            store.write(done(config, 55 + random.normal(), validation), curves)
    render.main(source, target)
    page = (target / "README.md").read_text(encoding="utf-8")
    assert "missing" not in page
    assert "n = 5." in page
    assert page.count("| confirm |") == 25
    pictures = [f"cifar100_budget-{metric}.svg" for metric in ("cosine-r-p-2", "test-accuracy")]
    assert sorted(path.name for path in target.iterdir()) == sorted(
        ["README.md", *pictures, "cifar100_budget.csv"]
    )
    for picture in pictures:
        assert f"({picture})" in page
        assert (target / picture).stat().st_size < 300_000

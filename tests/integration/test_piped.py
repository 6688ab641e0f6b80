"""Output through a pipe: never cut, whatever width the environment names."""

from pathlib import Path

import pytest
from study_fixtures import SMALL, clean_environment, command, made_manifest, places_in, write_study

from study.spec.plan import make_plan
from study.spec.study_file import StudyFile

LONG = SMALL.replace("name: digits", f"name: {'a long column ' * 10}x")


@pytest.mark.parametrize("words", [[], ["plan", "--help"], ["run", "-h"]])
def test_help_through_a_narrow_pipe_cuts_no_name(words: list[str]) -> None:
    ended = command(*words, environment=clean_environment(COLUMNS="40"))
    assert "…" not in ended.stdout
    if words:
        assert "--trials-per-gpu" in ended.stdout


def test_lists_and_mistakes_through_a_narrow_pipe_are_whole(tmp_path: Path) -> None:
    places, study = places_in(tmp_path), write_study(tmp_path, LONG)
    places.manifest("digits").parent.mkdir(parents=True)
    places.manifest("digits").write_text(
        made_manifest("digits").model_dump_json(), encoding="utf-8"
    )
    where = ["--results", places.results, "--data", places.data]
    narrow = clean_environment(COLUMNS="40")
    listed = command("plan", study, "--trials", *where, environment=narrow).stdout
    for identity in make_plan(StudyFile(study), made_manifest).choosing:
        assert f"{identity} " in listed
    assert "a long column " * 10 + "x" in command("plan", study, *where, environment=narrow).stdout
    said = command("plan", tmp_path / f"{'n' * 150}.yaml", environment=narrow).stderr
    assert len(said.splitlines()) == 1

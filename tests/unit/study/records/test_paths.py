"""Paths as users spell them: `~`, links, other spellings, bytes that are not UTF-8, environment
variables.
"""

import os
from pathlib import Path

import pytest
from study_fixtures import SEARCHED, SMALL, CommandLine, made_manifest, places_in, write_study

import study
from dh2l.data import read_tree
from dh2l.errors import UserError
from study.records.paths import Places, expanded
from study.spec.study_file import StudyFile, claim_name, find_study


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and a working folder of another place."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    return CommandLine(monkeypatch, capsys, places_in(tmp_path))


def keep_manifest(places: Places) -> None:
    """Leave the manifest of made-up digits beside the results, as a run does."""
    places.manifest("digits").parent.mkdir(parents=True)
    places.manifest("digits").write_text(
        made_manifest("digits").model_dump_json(), encoding="utf-8"
    )


def test_a_tilde_is_the_home_folder_in_every_place(home: Path) -> None:
    places = Places.of("~/results", "~/data")
    assert (places.results, places.local, places.data) == (
        home / "results",
        home / "results",
        home / "data",
    )
    assert Places.of(Path("~/results"), Path("~/data")) == places
    write_study(home, SMALL)
    write_study(home, "extends: ~/small.yaml\ntitle: Mine\n", "mine")
    assert find_study("~/mine.yaml").study.title == "Mine"
    (home / "tree.yaml").write_text("x: [a]\ny: [b]\n", encoding="utf-8")
    assert read_tree("~/tree.yaml", (("a",), ("b",))).depth == 2


def test_a_tilde_in_an_option_or_variable_of_a_command_is_the_home_folder(
    home: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_manifest(Places.of(home / "results", home / "data"))
    words = ["export", write_study(home, SMALL), "--output=~/cells.csv", "--format", "csv"]
    code, _, error = cli(*words, "--results=~/results", "--data=~/data", placed=False)
    assert (code, (home / "cells.csv").is_file()) == (0, True), error
    (home / "cells.csv").unlink()
    monkeypatch.setenv("DH2L_RESULTS", "~/results")
    monkeypatch.setenv("DH2L_DATA", "~/data")
    assert cli(*words, placed=False)[0] == 0
    assert (home / "cells.csv").is_file()
    assert list(Path.cwd().iterdir()) == []


def test_the_home_of_nobody_is_a_sentence() -> None:
    with pytest.raises(
        UserError, match=r"the path '~nobody-of-that-name/x': .*; write the path without ~"
    ):
        expanded("~nobody-of-that-name/x")


def test_another_spelling_or_a_link_is_the_same_study(tmp_path: Path) -> None:
    places, path = places_in(tmp_path), write_study(tmp_path, SMALL)
    (tmp_path / "link").symlink_to(tmp_path)
    claim_name(StudyFile(path), places)
    path.write_text(SMALL.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
    for other in (
        path,
        tmp_path / "link" / "small.yaml",
        tmp_path / "link" / ".." / tmp_path.name / "small.yaml",
    ):
        claim_name(StudyFile(other), places)


def test_a_second_clone_is_the_same_study_and_another_one_of_its_name_is_not(
    tmp_path: Path,
) -> None:
    places = places_in(tmp_path)
    for name in ("one", "two", "other"):
        (tmp_path / name).mkdir()
    first = write_study(tmp_path / "one", SMALL)
    second = write_study(tmp_path / "two", f"# a clone\n{SMALL}")
    claim_name(StudyFile(first), places)
    claim_name(StudyFile(second), places)
    with pytest.raises(
        UserError, match=rf"the name small belongs to {first} .*, whose content differs from"
    ):
        claim_name(StudyFile(write_study(tmp_path / "other", SEARCHED)), places)
    claim_name(StudyFile(first), places)
    first.unlink()
    claim_name(StudyFile(tmp_path / "other" / "small.yaml"), places)


def test_what_two_files_extend_counts_too(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    for name, text in (("one", SMALL), ("two", SMALL.replace("epochs: 2", "epochs: 3"))):
        (tmp_path / name).mkdir()
        write_study(tmp_path / name, text, "base")
        write_study(tmp_path / name, "extends: base.yaml\n", "mine")
    claim_name(StudyFile(tmp_path / "one" / "mine.yaml"), places)
    with pytest.raises(UserError, match="belongs to"):
        claim_name(StudyFile(tmp_path / "two" / "mine.yaml"), places)


def test_a_study_file_whose_name_is_not_utf_8_is_one_like_others(
    tmp_path: Path, cli: CommandLine
) -> None:
    path = tmp_path / os.fsdecode(b"st\xffdy.yaml")
    path.write_text(SMALL, encoding="utf-8")
    places = cli.places
    keep_manifest(places)
    places.trials.mkdir()
    claim_name(StudyFile(path), places)
    assert (places.table("st_dy") / "file").read_bytes() == os.fsencode(path)
    for words in (["plan"], ["status"], ["table"], ["export"], ["report", "--no-mlflow"]):
        code, _, error = cli(words[0], path, *words[1:])
        assert code == 0, error


def test_a_frame_reads_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    places, path = Places.of(tmp_path / "there", tmp_path / "data"), write_study(tmp_path, SMALL)
    keep_manifest(places)
    places.trials.mkdir()
    monkeypatch.setenv("DH2L_RESULTS", str(places.results))
    monkeypatch.setenv("DH2L_DATA", str(places.data))
    assert len(study.frame(path)) == 2
    assert not [w for w in recwarn if "no records" in str(w.message)]


def test_a_frame_of_nothing_says_so(tmp_path: Path) -> None:
    places, path = places_in(tmp_path), write_study(tmp_path, SMALL)
    keep_manifest(places)
    with pytest.warns(
        UserWarning,
        match=r"there are no records under .*trials; pass `results`, or set DH2L_RESULTS",
    ):
        study.frame(path, results=places.results, data=places.data)


def test_a_word_where_a_list_of_words_is_expected_is_not_read_letter_by_letter() -> None:
    with pytest.raises(
        UserError, match=r"overrides is the string 'epochs=2'; .* Pass \['epochs=2'\]"
    ):
        study.frame("quickstart", overrides="epochs=2")
    with pytest.raises(UserError, match=r"plugins is the string 'mine.py'"):
        study.frame("quickstart", plugins="mine.py")

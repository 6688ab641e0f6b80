"""YAML 1.2 documents: the meaning of values, and the source locations of mistakes."""

from pathlib import Path
from typing import Any

import pytest

from dh2l.errors import UserError
from dh2l.io.document import Document, parse_value


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def sentence(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Document(path, "a study")
    first, *excerpt = str(caught.value).splitlines()
    assert len(excerpt) in (0, 2)
    assert all(line.startswith("  ") for line in excerpt)
    return "\n".join([first, *excerpt])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e30", 1e30),
        ("5e-4", 0.0005),
        ("1", 1),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("null", None),
        ("0o10", 8),
        ("010", 10),
        ("12:30", "12:30"),
        ("[1e-3, no]", [0.001, "no"]),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(tmp_path: Path, text: str, value: Any) -> None:
    from_file = Document(written(tmp_path, f"key: {text}\n"), "a study").values["key"]
    assert from_file == parse_value(text) == value
    assert type(from_file) is type(parse_value(text)) is type(value)


def test_a_doubled_key_is_an_error_with_the_place_of_the_second(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n")
    assert sentence(path) == f"{path}:5:3: duplicate key 'c' in one mapping; remove one"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: [1, 2\nb: 3\n", 2, 2),
        ("a: 1\n  b: 2\n", 2, 4),
        ("a: 1\n\tb: 2\n", 2, 1),
        ("a: *nowhere\n", 1, 4),
        ("a: 1\nb: !unknown 2\n", 2, 4),
        ("a: 1\n---\nb: 2\n", 2, 1),
    ],
    ids=[
        "bracket left open",
        "wrong indentation",
        "tab",
        "alias without anchor",
        "unknown tag",
        "two documents",
    ],
)
def test_what_is_not_yaml_is_a_sentence_with_file_line_and_column(
    tmp_path: Path, text: str, line: int, column: int
) -> None:
    path = written(tmp_path, text)
    assert sentence(path).startswith(f"{path}:{line}:{column}: this is not valid YAML: ")


def test_a_character_that_yaml_forbids_is_a_sentence_that_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1\nb: \x07\n")
    assert sentence(path).startswith(f"{path}")
    assert "is not valid YAML" in sentence(path)


def test_a_file_that_is_not_utf_8_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes("title: Größe\n".encode("latin-1"))
    assert sentence(path) == f"{path} is not a text file in UTF-8, so it cannot be a study"


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert sentence(path) == f"{path} cannot be read: No such file or directory"


def test_a_folder_is_a_sentence(tmp_path: Path) -> None:
    assert sentence(tmp_path) == f"{tmp_path} cannot be read: Is a directory"


PLACED = """\
title: t
config:
  epochs: 2
rows:
  - arm: E
    set: {lambda_e: 0.1, metric: cosine}
  - arm:
      - H
      - E+H
"""


@pytest.mark.parametrize(
    ("location", "line", "column"),
    [
        ((), 1, 1),
        (("title",), 1, 1),
        (("config", "epochs"), 3, 3),
        (("rows",), 4, 1),
        (("rows", 0), 5, 5),
        (("rows", 0, "set", "metric"), 6, 26),
        (("rows", 1, "arm", 1), 9, 9),
    ],
)
def test_a_location_has_the_place_of_its_key_or_entry(
    tmp_path: Path, location: tuple[int | str, ...], line: int, column: int
) -> None:
    path = written(tmp_path, PLACED)
    assert Document(path, "a study").source_location(location) == f"{path}:{line}:{column}"


@pytest.mark.parametrize(
    ("location", "line", "column"),
    [
        (("seeds",), 1, 1),
        (("config", "lr"), 2, 1),
        (("rows", 7), 4, 1),
        (("rows", 0, "metric"), 5, 5),
        (("rows", 0, "set", "metric", "str"), 6, 26),
        (("config", "epochs", "[key]"), 3, 3),
    ],
)
def test_a_location_that_is_not_in_the_file_has_the_place_of_its_nearest_ancestor(
    tmp_path: Path, location: tuple[int | str, ...], line: int, column: int
) -> None:
    path = written(tmp_path, PLACED)
    assert Document(path, "a study").source_location(location) == f"{path}:{line}:{column}"


@pytest.mark.parametrize("text", ["[1, 2", "a: b: c", "'open", "!!int words", "!unknown 1"])
def test_a_value_on_the_command_line_that_is_not_yaml_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="is not a valid YAML value"):
        parse_value(text)


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("a: 1\nlr: 1e999\n", 2, 5, "1e999 is beyond the largest number"),
        ("a: 1\nlr: -1_0.0e400\n", 2, 5, "-1_0.0e400 is beyond the largest number"),
        ("lr: 1e-999\n", 1, 5, "1e-999 is so small that it is read as 0"),
        ("seeds: [0, 9223372036854775808]\n", 1, 12, "9223372036854775808 has more than 64 bits"),
        ("seed: 0xffffffffffffffffff\n", 1, 7, "0xffffffffffffffffff has more than 64 bits"),
    ],
)
def test_a_number_that_cannot_be_held_is_refused_where_it_is_written(
    tmp_path: Path, text: str, line: int, column: int, said: str
) -> None:
    path = written(tmp_path, text)
    assert sentence(path).startswith(f"{path}:{line}:{column}: {said}")


@pytest.mark.parametrize("text", ["1e999", "1e-999", "9223372036854775808"])
def test_a_number_on_the_command_line_that_cannot_be_held_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=rf"^{text} (is|has)"):
        parse_value(text)


@pytest.mark.parametrize(
    "text", ["'1e999'", "0.0", "0e-999", "9223372036854775807", "1e308", "a1e999"]
)
def test_a_number_or_word_that_can_be_held_is_taken(text: str) -> None:
    assert parse_value(text) is not None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a: 1\nb: [1, 2\n", ["  b: [1, 2", "          ^"]),
        ("a: 1\n\tb: 2\n", ["   b: 2", "  ^"]),
        ("a: 1\nb: \x07\n", ["  b:  ", "     ^"]),
        ("a: 1e999\n", ["  a: 1e999", "     ^"]),
    ],
)
def test_what_is_not_yaml_is_shown_with_a_caret(
    tmp_path: Path, text: str, shown: list[str]
) -> None:
    assert sentence(written(tmp_path, text)).splitlines()[1:] == shown


def test_of_a_long_line_the_part_around_the_caret_is_shown(tmp_path: Path) -> None:
    _, line, caret = sentence(written(tmp_path, f"a: [{'x, ' * 500}1e999]\n")).splitlines()
    assert len(line) <= 102
    assert line[caret.index("^") :].startswith("1e999")

"""Pydantic's findings as sentences, for any model: nested, in lists, with choices and rules of its
own.
"""

from typing import Any, Literal, Self

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dh2l.errors import UserError
from dh2l.io.validation import validate, validation_messages


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    width: int = 1


class Sheet(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: str
    rows: list[Row] = []
    header: Row | None = None
    colour: Literal["red", "green", "blue"] = "red"

    @model_validator(mode="after")
    def _has_rows_under_a_header(self) -> Self:
        if self.header and not self.rows:
            raise ValueError("a header needs rows under it")
        return self


def told(values: Any) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        Sheet.model_validate(values)
    return [
        (finding.location, finding.sentence) for finding in validation_messages(caught.value, Sheet)
    ]


@pytest.mark.parametrize(
    ("values", "location", "sentence"),
    [
        ({}, ("title",), "title is missing"),
        ({"title": "t", "rows": [{}]}, ("rows", 0, "name"), "rows.0.name is missing"),
        ({"title": 3}, ("title",), "title is 3; expected a word. Put it in quotes"),
        ({"titel": "t", "title": "t"}, ("titel",), "unknown key 'titel'; did you mean 'title'?"),
        (
            {"title": "t", "xyz": 1},
            ("xyz",),
            "unknown key 'xyz'; known: colour, header, rows, title",
        ),
        (
            {"title": "t", "rows": [{"name": "a"}, {"name": "b", "widht": 2}]},
            ("rows", 1, "widht"),
            "unknown key 'widht'; did you mean 'width'?",
        ),
        (
            {"title": "t", "header": {"name": "a", "nmae": 2}},
            ("header", "nmae"),
            "unknown key 'nmae'; did you mean 'name'?",
        ),
        (
            {"title": "t", "colour": "gren"},
            ("colour",),
            "colour is 'gren', but must be 'red', 'green' or 'blue'; did you mean 'green'?",
        ),
        (
            {"title": "t", "colour": "x"},
            ("colour",),
            "colour is 'x', but must be 'red', 'green' or 'blue'",
        ),
        ({"title": "t", "header": {"name": "a"}}, (), "a header needs rows under it"),
        (
            [],
            (),
            "what was given is [], but must be a mapping, with keys among: title, rows, header, "
            "colour",
        ),
    ],
)
def test_a_finding_says_where_it_is_and_what_is_wrong(
    values: Any, location: tuple[int | str, ...], sentence: str
) -> None:
    assert told(values) == [(location, sentence)]


def test_there_is_one_finding_per_mistake() -> None:
    assert told({"rows": [{"name": 1, "width": "2"}], "colour": "grey"}) == [
        (("title",), "title is missing"),
        (("rows", 0, "name"), "rows.0.name is 1; expected a word. Put it in quotes"),
        (("rows", 0, "width"), "rows.0.width is '2'; expected a whole number. Remove the quotes"),
        (
            ("colour",),
            "colour is 'grey', but must be 'red', 'green' or 'blue'; did you mean 'green'?",
        ),
    ]


def test_validated_gives_the_model_or_all_sentences() -> None:
    assert validate(Sheet, {"title": "t"}) == Sheet(title="t")
    with pytest.raises(
        UserError, match=r"^title is missing; unknown key 'row'; did you mean 'rows'\?$"
    ):
        validate(Sheet, {"row": []})

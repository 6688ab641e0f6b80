"""Pydantic's findings as sentences: where, what came, what was expected, the nearest valid names."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from dh2l.errors import UserError, unknown_name

Location = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)


class Finding(NamedTuple):
    """One mistake in a user's values: where it stands, and a sentence about it."""

    location: Location
    sentence: str


def findings(error: ValidationError, model: type[BaseModel]) -> Iterator[Finding]:
    """One finding per mistake that pydantic saw in values meant for `model`."""
    for detail in error.errors():
        location = detail["loc"]
        came = detail["input"]
        of_key = location[-1:] == ("[key]",)
        location = location[:-1] if of_key else location
        where = ".".join(str(part) for part in (location[:-1] if of_key else location)) or "what was given"
        match detail["type"]:
            case "extra_forbidden":
                sentence = unknown_name("key", location[-1], _fields_at(model, location[:-1]))
            case "missing":
                sentence = f"{where} is missing"
            case "literal_error" | "enum":
                expected = detail["ctx"]["expected"]
                near = get_close_matches(
                    str(came), [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")], 1
                )
                hint = f"; did you mean {near[0]!r}?" if near else ""
                sentence = f"{where} is {came!r}, but must be {expected}{hint}"
            case "value_error":
                sentence = str(detail["ctx"]["error"])
            case "model_type":
                keys = ", ".join(_fields_at(model, location))
                sentence = f"{where} is {came!r}, but must be a mapping, with keys among: {keys}"
            case "string_type" if of_key:
                sentence = f"the key {came!r} under {where} is not a word"
            case _:
                sentence = f"{where} is {came!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
        yield Finding(location, sentence)


def validated(model: type[Model], values: Any) -> Model:
    """Validate `values` as a `model`.

    Raises:
        UserError: one sentence per mistake.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(finding.sentence for finding in findings(error, model))) from None


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields of the model that stands at `location` inside `model`."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        if inner is not None:
            model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model class in an annotation such as ``Axis``, ``list[Row]`` or ``Row | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None

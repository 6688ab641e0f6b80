"""Pydantic's errors as sentences: place, value, expectation and nearest names."""

from collections.abc import Iterator
from datetime import date
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dh2l.errors import UserError, unknown_name_message

Location = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)
LONGEST = 200
"""Characters of a value in a sentence."""


class FieldError(ValueError):
    """An error of a model's validator that concerns one of its fields.

    Attributes:
        location: the field, relative to the model.
    """

    def __init__(self, location: Location, sentence: str) -> None:
        super().__init__(sentence)
        self.location = location


class ValidationMessage(NamedTuple):
    """One mistake in a user's values: where it stands, and a sentence about it."""

    location: Location
    sentence: str


def validation_messages(
    error: ValidationError, model: type[BaseModel]
) -> Iterator[ValidationMessage]:
    """Yield a message per mistake that pydantic found in values meant for `model`."""
    for detail in error.errors():
        location = detail["loc"]
        of_key = location[-1:] == ("[key]",)
        if of_key:
            location = location[:-1]
        mistake = detail.get("ctx", {}).get("error")
        sentence = _sentence(detail, location, model, of_key=of_key)
        if isinstance(mistake, FieldError):
            location = (*location, *mistake.location)
        yield ValidationMessage(location, sentence)


def _sentence(
    detail: ErrorDetails, location: tuple[int | str, ...], model: type[BaseModel], *, of_key: bool
) -> str:
    """Describe a mistake that pydantic found; `of_key`: in the key of a mapping."""
    came, kind = detail["input"], detail["type"]
    parts = location[:-1] if of_key else location
    where = ".".join(str(part) for part in parts) or "what was given"
    match kind:
        case "extra_forbidden":
            return unknown_name_message("key", location[-1], _fields_at(model, location[:-1]))
        case "missing":
            return f"{where} is missing"
        case "literal_error" | "enum":
            expected = detail["ctx"]["expected"]
            return (
                f"{where} is {format_value(came)}, but must be {expected}{_nearest(came, expected)}"
            )
        case "value_error":
            return str(detail["ctx"]["error"])
        case "model_type":
            keys = ", ".join(_fields_at(model, location))
            return (
                f"{where} is {format_value(came)}, but must be a mapping, with keys among: {keys}"
            )
        case "string_type" | "invalid_key" if of_key or kind == "invalid_key":
            key = location[-1]
            named = f"the key {format_value(key)} is {yaml_kind(key)}"
            return f"{named}; expected a word. Put it in quotes"
        case _:
            found = f"{where} is {format_value(came)}"
            return f"{found}; expected {_expected(detail)}{remedy(kind, came)}"


def _nearest(came: object, expected: str) -> str:
    """Return a question with the nearest of the expected words, or an empty string."""
    words = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    near = get_close_matches(str(came), words, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _expected(detail: ErrorDetails) -> str:
    """Describe the values that pydantic would have accepted."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    bound = _BOUNDS.get(kind)
    if bound is None:
        return f"another value ({detail['msg'][0].lower()}{detail['msg'][1:]})"
    words, key = bound
    value = context[key]
    return words.format(f"{value:g}" if isinstance(value, float) else value)


_KINDS = {
    **dict.fromkeys(
        ("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "a whole number"
    ),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "a list"),
    "string_type": "a word",
    "dict_type": "a mapping",
    "none_required": "null",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("a number above {}", "gt"),
    "greater_than_equal": ("a number of at least {}", "ge"),
    "less_than": ("a number below {}", "lt"),
    "less_than_equal": ("a number of at most {}", "le"),
    "too_short": ("a list of at least {} entries", "min_length"),
    "too_long": ("a list of at most {} entries", "max_length"),
    "string_too_short": ("a word that is not empty", "min_length"),
    "string_too_long": ("a word of at most {} characters", "max_length"),
}
_TRUTHS = {
    "true": "true",
    "yes": "true",
    "on": "true",
    "y": "true",
    "false": "false",
    "no": "false",
    "off": "false",
}


def remedy(kind: str, came: Any) -> str:
    """Return the edit that gives a value the expected kind, as the end of a sentence."""
    if kind.startswith("bool") and isinstance(came, str) and came.lower() in _TRUTHS:
        return f". Write {_TRUTHS[came.lower()]}"
    if kind.startswith("bool") and came in (0, 1):
        return f". Write {str(bool(came)).lower()}"
    if kind.startswith(("int", "float")) and isinstance(came, str) and _is_number(came):
        return ". Remove the quotes"
    if kind == "int_type" and isinstance(came, float) and came.is_integer():
        return f". Write {int(came)}"
    if kind == "string_type" and isinstance(came, (bool, int, float, date)):
        return ". Put it in quotes"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def yaml_kind(value: Any) -> str:
    """Return the kind of a value in YAML's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {
        int: "a number",
        float: "a number",
        str: "a word",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
    }
    return "a date" if isinstance(value, date) else kinds.get(type(value), "another value")


def format_value(value: Any) -> str:
    """Format a value as its file may have it, cut where it is long."""
    plain = {None: "null", True: "true", False: "false"}
    if isinstance(value, date):
        text = f"{value.isoformat()} (a date)"
    else:
        text = plain[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def validate(model: type[Model], values: Any) -> Model:
    """Validate `values` as a `model`.

    Raises:
        UserError: one sentence per mistake.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(
            "; ".join(finding.sentence for finding in validation_messages(error, model))
        ) from None


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields of the model that stands at `location` inside `model`."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        if inner is not None:
            model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model class in an annotation such as ``Axis``, ``list[Row]`` or ``Row | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None

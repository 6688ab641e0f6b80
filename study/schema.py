"""JSON Schema of study files, with which editors complete and check them."""

from typing import Any

from dh2l.config import TrainConfig
from dh2l.names import METRICS
from dh2l.registry import REGULARISERS, regulariser_fields, regulariser_of
from study.arms import ARMS
from study.space import OWN_KEYS, Study


def study_schema() -> dict[str, Any]:
    """JSON Schema of study files: the study's keys, and under `config` and `set` every config field."""
    schema = Study.model_json_schema()
    trial = TrainConfig.model_json_schema()
    fields = {k: v for k, v in trial["properties"].items() if k not in OWN_KEYS}
    fields |= {
        k: {"default": v, "description": f"Of the regulariser {regulariser_of(k)}."}
        for k, v in regulariser_fields().items()
    }
    arms = {"anyOf": [{"enum": [*ARMS, *REGULARISERS]}, {"type": "string", "pattern": r"\+"}]}
    axis_of = {k: {"$ref": "#/$defs/Axis"} for k in fields}
    settings = {"type": "object", "additionalProperties": False, "properties": fields}
    axes = {"type": "object", "additionalProperties": False, "properties": axis_of}
    definitions = schema["$defs"]
    for owner, key in ((schema, "config"), (definitions["Row"], "set"), (definitions["Column"], "set")):
        owner["properties"][key] = settings | {"description": owner["properties"][key]["description"]}
    for owner in (schema, definitions["Row"]):
        owner["properties"]["search"] = axes | {"description": owner["properties"]["search"]["description"]}
    definitions["Row"]["properties"]["arm"]["anyOf"] = [
        arms,
        {"type": "array", "items": arms},
    ]
    definitions["Row"]["properties"]["metric"]["anyOf"] = [
        {"enum": list(METRICS)},
        {"type": "array", "items": {"enum": list(METRICS)}},
        {"type": "null"},
    ]
    # A file that extends another one may leave any key to it.
    alone = {"if": {"not": {"required": ["extends"]}}, "then": {"required": schema.pop("required")}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, **alone}

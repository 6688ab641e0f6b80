"""JSON Schema of study files, for completion and checks in editors."""

from typing import Any

from dh2l.config.train_config import TrainConfig
from dh2l.registry.entries import METRICS
from dh2l.registry.register import REGULARISERS, regulariser_fields, regulariser_of
from study.spec.arms import ARMS
from study.spec.schema import Study
from study.spec.settings import OWN_KEYS


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files, with every config field under `config` and `set`."""
    schema = Study.model_json_schema()
    trial = TrainConfig.model_json_schema()
    fields = {k: v for k, v in trial["properties"].items() if k not in OWN_KEYS}
    fields |= {
        k: {"default": v, "description": f"Field of the regulariser {regulariser_of(k)}."}
        for k, v in regulariser_fields().items()
    }
    arms = {"anyOf": [{"enum": [*ARMS, *REGULARISERS]}, {"type": "string", "pattern": r"\+"}]}
    axis_of = {k: {"$ref": "#/$defs/Axis"} for k in fields}
    settings = {"type": "object", "additionalProperties": False, "properties": fields}
    axes = {"type": "object", "additionalProperties": False, "properties": axis_of}
    definitions = schema["$defs"]
    for owner, key in (
        (schema, "config"),
        (definitions["Row"], "set"),
        (definitions["Column"], "set"),
    ):
        owner["properties"][key] = settings | {
            "description": owner["properties"][key]["description"]
        }
    for owner in (schema, definitions["Row"]):
        owner["properties"]["search"] = axes | {
            "description": owner["properties"]["search"]["description"]
        }
    definitions["Row"]["properties"]["arm"]["anyOf"] = [
        arms,
        {"type": "array", "items": arms},
    ]
    definitions["Row"]["properties"]["metric"]["anyOf"] = [
        {"enum": list(METRICS)},
        {"type": "array", "items": {"enum": list(METRICS)}},
        {"type": "null"},
    ]
    # A file that extends another one may inherit any key.
    alone = {"if": {"not": {"required": ["extends"]}}, "then": {"required": schema.pop("required")}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, **alone}

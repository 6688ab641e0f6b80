"""The identity of a trial: what a config's numbers depend on, in a form that equal trials share."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dh2l.config.conditions import active_fields
from dh2l.config.fields import ConfigFields
from dh2l.registry.entries import METRICS, MODELS
from dh2l.registry.register import REGULARISERS

NUMERICS = 3
"""Raised when a change of this library's code changes the numbers that a config gives."""
_numerics = ContextVar("numerics", default=NUMERICS)


@contextmanager
def under_numerics(number: int) -> Iterator[None]:
    """Compute identities under another `NUMERICS`, to find records of that version."""
    token = _numerics.set(number)
    try:
        yield
    finally:
        _numerics.reset(token)


def numerics_of(config: ConfigFields, name: str) -> int:
    """Find the `NUMERICS` under which a bound config has an identity.

    Args:
        config: the config of a record.
        name: the record's identity.

    Returns:
        The number; the present one where none fits.
    """
    for number in range(NUMERICS, 0, -1):
        with under_numerics(number):
            if digest_of(identity(config)) == digest_of(name):
                return number
    return NUMERICS


def canonical(config: ConfigFields) -> dict[str, Any]:
    """Return the active fields that differ from their defaults, plus `numerics`.

    They are sorted by name, as JSON has them.
    """
    fields = type(config).model_fields
    values = {
        name: v for name, field in fields.items() if (v := getattr(config, name)) != field.default
    }
    for name in set(values) - active_fields(config):
        del values[name]
    if "lambda_l" in values:
        values["lambda_l"] = config.effective_lambda_l
    values.pop("regularisers", None)
    for name in config.active_regularisers:
        values |= {
            field: v
            for field, v in config.regularisers.items()
            if field in REGULARISERS[name].fields
        }
    if sources := _sources(config):
        values["sources"] = sources
    values.pop("statistics", None)
    if config.channel_statistics != "data":
        values["statistics"] = config.channel_statistics
    values.pop("e_scope", None)
    if config.lambda_e and config.energy_scope != ("conv" if config.hierarchical else "all"):
        values["e_scope"] = config.energy_scope
    values.pop("conv_metric", None)
    if config.energy_on_convolutions and config.conv_penalty != values.get("metric"):
        values["conv_metric"] = config.conv_penalty
    values["numerics"] = _numerics.get()
    return {name: list(v) if isinstance(v := values[name], tuple) else v for name in sorted(values)}


def _sources(config: ConfigFields) -> dict[str, str]:
    """Hashes of the users' sources that a trial's numbers depend on, by what they registered."""
    used = [METRICS[name] for name in config.used_metrics]
    found = {metric.key: metric.source for metric in used} | {
        config.model: MODELS[config.model].source
    }
    found |= {name: REGULARISERS[name].source for name in config.active_regularisers}
    return {name: source for name, source in sorted(found.items()) if source}


def digest_of(identity: str) -> str:
    """Return the hash at the end of an identity, which alone decides; the words are for people."""
    return identity.rpartition("-")[2]


def identity(config: ConfigFields) -> str:
    """Name of the trial: readable words, then 12 hexadecimal digits of a hash over `canonical`."""
    values = canonical(config)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    words = [config.dataset, config.model, config.arm]
    metrics = [values[name] for name in ("conv_metric", "metric") if name in values]
    words += ["~".join(metrics)] if metrics else []
    words += [f"e{config.lambda_e:g}"] if config.lambda_e else []
    if config.regularised_hierarchy:
        weights = values["lambda_l"]
        words.append(
            "l" + "~".join(f"{w:g}" for w in (weights if isinstance(weights, list) else [weights]))
        )
    words += [f"{name}{weight:g}" for name, weight in config.active_regularisers.items()]
    return "-".join([*words, f"s{config.seed}", digest])

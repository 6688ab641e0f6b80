"""The identity of a trial: what a config's numbers depend on, in a form that equal trials share."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from dh2l.names import METRICS, MODELS
from dh2l.registry import REGULARISERS

if TYPE_CHECKING:
    from dh2l.config import TrainConfig

NUMERICS = 3
"""Raised when a change of this library's code changes the numbers that a config gives."""


def canonical(config: "TrainConfig") -> dict[str, Any]:
    """The active fields that differ from their defaults; sorted by name, as JSON has them, plus `numerics`."""
    fields = type(config).model_fields
    values = {name: v for name, field in fields.items() if (v := getattr(config, name)) != field.default}
    for name in set(values) - active_fields(config):
        del values[name]
    if "lambda_l" in values:
        values["lambda_l"] = config.effective_lambda_l
    values.pop("regularisers", None)
    for name in config.active_regularisers:
        values |= {field: v for field, v in config.regularisers.items() if field in REGULARISERS[name].fields}
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
    values["numerics"] = NUMERICS
    return {name: list(v) if isinstance(v := values[name], tuple) else v for name in sorted(values)}


def _used_metrics(config: "TrainConfig") -> set[str]:
    """The metrics that a trial's numbers depend on."""
    on_classifier = config.energy_on_classifier or config.regularised_hierarchy
    used = (config.metric if on_classifier else None, config.conv_penalty if config.energy_on_convolutions else None)
    return {metric for metric in used if metric is not None}


def _sources(config: "TrainConfig") -> dict[str, str]:
    """Hashes of the users' sources that a trial's numbers depend on, by what they registered."""
    used = [METRICS[name] for name in _used_metrics(config)]
    found = {metric.key: metric.source for metric in used} | {config.model: MODELS[config.model].source}
    found |= {name: REGULARISERS[name].source for name in config.active_regularisers}
    return {name: source for name, source in sorted(found.items()) if source}


def active_fields(config: "TrainConfig") -> set[str]:
    """Names of the fields that a trial's numbers depend on."""
    energy, regularised, hierarchical = config.lambda_e > 0, config.regularised_hierarchy, config.hierarchical
    on_classifier = config.energy_on_classifier or regularised
    used = _used_metrics(config)
    constrained = config.constrained or config.lambda_o > 0
    free_constant_radius = config.radius == "free" and config.centres != "parent"
    inactive = {
        "validation_fraction": config.protocol == "paper",
        "data_seed": config.protocol == "paper",
        "lr_gamma": not config.lr_milestones,
        "decay_batch_norm": not config.weight_decay,
        "metric": not on_classifier,
        "e_reduction": not energy,
        "ternary_threshold": "hamming_ternary" not in used,
        "means": not any(METRICS[name].depends_on_means for name in used),
        "centres": not hierarchical,
        "centre_scale": not hierarchical or config.centres != "parent",
        "radius": not hierarchical,
        "radius_ratio": not hierarchical or config.radius != "unit",
        "outer_radius_factor": not hierarchical or not free_constant_radius,
        "lambda_l": not regularised,
        "batch_structure": not (regularised or constrained),
        "constraint_form": not config.constrained,
        "shortcut": "cifar" not in str(MODELS[config.model].build),
        "tree": True,  # its hash stands for it
        "weights": bool(config.weights_hash),  # likewise
        "micro_batch": config.micro_batch is not None and config.micro_batch >= config.batch_size,
    }
    return set(type(config).model_fields) - {name for name, off in inactive.items() if off}


def identity(config: "TrainConfig") -> str:
    """Name of the trial: readable words, then 12 hexadecimal digits of a hash over `canonical`."""
    values = canonical(config)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    words = [config.dataset, config.model, config.arm]
    metrics = [values[name] for name in ("conv_metric", "metric") if name in values]
    words += ["~".join(metrics)] if metrics else []
    words += [f"e{config.lambda_e:g}"] if config.lambda_e else []
    if config.regularised_hierarchy:
        weights = values["lambda_l"]
        words.append("l" + "~".join(f"{w:g}" for w in (weights if isinstance(weights, list) else [weights])))
    return "-".join([*words, f"s{config.seed}", digest])

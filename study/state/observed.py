"""Points that a searcher has tried, found among the records."""

import json
from typing import Any

from dh2l.config.conditions import needed_parts
from dh2l.config.train_config import flat
from dh2l.errors import UserError
from dh2l.registry.register import regulariser_fields
from study.records.leases import Claims
from study.records.loaded_records import LoadedRecords
from study.spec.cell import CellConfigs
from study.spec.plan import Plan
from study.spec.sampling import any_point
from study.spec.settings import Axis, Value


def known_points(plan: Plan, found: LoadedRecords, claims: Claims) -> list[list[dict[str, Value]]]:
    """Return for each searched cell the points of which a trial was recorded or begun.

    It does not matter which study recorded it: every point in the search's space that is trained as
    the cell's trials counts. Oldest first, so that a search goes on as it began.
    """
    dated = sorted(
        found.records.values(), key=lambda record: (record.provenance.started, record.identity)
    )
    configs = [(record.identity, record.config) for record in dated]
    configs += [
        (identity, claim.config) for identity, claim in claims.everyone().items() if claim.config
    ]
    return [
        _points(spec, plan.study.seeds, configs) if cell.budget is not None else []
        for cell, spec in zip(plan.cells, plan.cell_configs, strict=True)
    ]


def _points(
    spec: CellConfigs, seeds: list[int], configs: list[tuple[str, dict[str, Any]]]
) -> list[dict[str, Value]]:
    fixed = _fixed(spec, seeds[0])
    points: dict[str, dict[str, Value]] = {}
    for identity, config in configs:
        # Comparing what is fixed is a quick sieve; that the identities agree is the proof.
        if config.get("seed") not in seeds or any(
            config.get(key) != value for key, value in fixed.items()
        ):
            continue
        its = regulariser_fields() | flat(config)

        def pick(key: str, axis: Axis, its: dict[str, Any] = its) -> Value:
            return _held(axis, its[key])

        try:
            values = spec.resolve_point(pick)
            fits = (
                json.dumps(values) in points
                or spec.config(values, config["seed"]).identity == identity
            )
        except (UserError, KeyError):
            continue
        if fits:
            points.setdefault(json.dumps(values), values)
    return list(points.values())


def _fixed(spec: CellConfigs, seed: int) -> dict[str, Any]:
    """Return the fields, as a record has them, that are the same in all of a cell's trials.

    A trial without a part that a weight of 0 switches off may belong to another arm: fields that
    only this part reads are left out.
    """
    config = spec.config(any_point(spec), seed)
    optional = spec.optional_parts
    of_parts = {key for key in type(config).model_fields if optional & set(needed_parts(key))}
    return config.model_dump(mode="json", exclude={"seed", "regularisers", *spec.axes, *of_parts})


def _held(axis: Axis, value: Value) -> Value:
    """Return an axis's value as the study writes it: a record has 1.0 for its 1.

    Raises:
        UserError: the axis cannot take it.
    """
    if not axis.holds(value):
        raise UserError(f"{value!r} lies outside the axis")
    return value if axis.values is None else axis.values[axis.values.index(value)]

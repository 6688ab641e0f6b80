"""How an estimate is shown: a line for each kind of trial, then the totals."""

from typing import Any

from rich.table import Table

from study.cli.common import out
from study.cost import Estimate, figure, kinds_of_trials
from study.progress import duration

WIDEST = 1000
"""Characters of the table: a narrow terminal wraps its lines rather than lose figures."""


def print_estimate(cost: Estimate) -> None:
    """Print an estimate for people."""
    table = Table("data", "model", "arm", "batch", "protocol", "trials", box=None)
    for heading in ("epochs", "steps", "evaluated", "s/epoch", "s/trial", cost.unit):
        table.add_column(heading, justify="right")
    for kind in cost.kinds:
        config, timing = kind.config, kind.timing
        table.add_row(
            *(config.dataset, config.model, config.arm, str(config.batch_size), config.protocol),
            str(kind.trials) if not kind.later else f"{kind.trials} + ≤ {kind.later}",
            *(str(config.epochs), str(timing.steps), str(timing.evaluated)),
            *(figure(timing.epoch_s), figure(timing.trial_s(config.epochs)), figure(kind.hours)),
        )
    table.width = out.measure(table, options=out.options.update(width=WIDEST)).maximum
    out.print(table)
    for line in estimate_lines(cost):
        out.print(line, markup=False)


def estimate_lines(cost: Estimate) -> list[str]:
    """The totals, a line each."""
    crew = cost.crew
    each = f"{crew.gpus:g} GPU{'s' if crew.gpus > 1 else ''}" if crew.gpus else f"{crew.cpus:g} CPU"
    later = f", and at most {cost.later} that depend on results" if cost.later else ""
    later_hours = f", and at most {figure(cost.later_hours)} for those that depend on results" if cost.later else ""
    again = f"{cost.starts} × " if cost.starts > 1 else ""
    return [
        f"trials:  {cost.trials} missing{later}",
        f"compute: {figure(cost.hours)} {cost.unit}{later_hours}",
        f"wall:    {duration(cost.start_s + cost.wall_s)}: {again}{duration(crew.start_s)} to start and stop Ray, and "
        f"{duration(cost.wall_s)} of training with {crew.places} side by side, {each} each, in the plan's order",
        f"disk:    {size(cost.record_bytes)} of records, at a time {size(cost.checkpoint_bytes)} of checkpoints; "
        "MLflow's store is not counted",
        f"These are estimates, from {cost.measured_s:.0f} s measured over {kinds_of_trials(len(cost.kinds))}"
        + ("; the scheduler may stop some early, so at most that." if cost.scheduled else "."),
    ]


def estimate_values(cost: Estimate) -> dict[str, Any]:
    """An estimate as JSON has it."""
    return {
        "estimate": True,
        "unit": cost.unit,
        "trials": cost.trials,
        "at_most_later": cost.later,
        "hours": cost.hours,
        "at_most_later_hours": cost.later_hours,
        "start_s": cost.start_s,
        "wall_s": cost.start_s + cost.wall_s,
        "side_by_side": cost.crew.places,
        "cpus_per_trial": cost.crew.cpus,
        "gpus_per_trial": cost.crew.gpus,
        "record_bytes": cost.record_bytes,
        "checkpoint_bytes": cost.checkpoint_bytes,
        "measured_s": cost.measured_s,
        "scheduler_may_stop_early": cost.scheduled,
        "kinds": [
            {
                **{name: getattr(kind.config, name) for name in ("dataset", "model", "arm", "batch_size", "protocol")},
                "trials": kind.trials,
                "at_most_later": kind.later,
                "epochs": kind.config.epochs,
                "steps_per_epoch": kind.timing.steps,
                "images_evaluated_per_epoch": kind.timing.evaluated,
                "epoch_s": kind.timing.epoch_s,
                "trial_s": kind.timing.trial_s(kind.config.epochs),
                "hours": kind.hours,
                "measured_s": kind.timing.measured_s,
            }
            for kind in cost.kinds
        ],
    }


def size(n_bytes: float) -> str:
    """Bytes for people: ``12.3 KiB``, ``4.00 GiB``."""
    unit = "KiB" if n_bytes < 1 << 20 else "MiB" if n_bytes < 1 << 30 else "GiB"
    return f"{figure(n_bytes / {'KiB': 1 << 10, 'MiB': 1 << 20, 'GiB': 1 << 30}[unit])} {unit}"

"""Estimates of `plan --estimate`: measurement and output."""

import time
from typing import TYPE_CHECKING, Any

from dh2l.wording import counted
from study.cli.console import err, out
from study.cli.progress import duration
from study.cli.terminal_tables import print_grid
from study.execution.estimate.cost import Estimate, figure, kinds_of_trials

if TYPE_CHECKING:
    from dh2l.plugins import Plugin
    from study.execution.estimate.cost import KindCost
    from study.records.paths import Places
    from study.state.study_state import StudyState

HEADER = (
    "data", "model", "arm", "batch", "protocol", "trials", "epochs", "steps", "evaluated",
    "s/epoch", "s/trial",
)  # fmt: skip
KIND_FIELDS = ("dataset", "model", "arm", "batch_size", "protocol")


def measured_estimate(
    state: "StudyState",
    places: "Places",
    resources: "tuple[str | None, float, float | None, tuple[Plugin, ...]]",
    *,
    measure_share: bool,
) -> Estimate | None:
    """Time the trials that a run would train.

    Args:
        state: the plan and the states of its trials.
        places: the folders of the study.
        resources: the address of the cluster, CPUs and GPUs per trial, and the plugins.
        measure_share: first measure the best number of trials per GPU.

    Returns:
        The estimate; None if no trials are left.
    """
    from study.cli.progress import RunProgress
    from study.execution.estimation import estimate_remaining, measure_gpu_share
    from study.state.remaining import missing_trials, trials_to_come

    if not (missing_trials(state) or trials_to_come(state)):
        return None
    started = time.perf_counter()
    from study.execution.ray_backend import Resources, open_session

    loading_s = time.perf_counter() - started
    progress, per_trial = RunProgress(err), Resources(*resources)
    with open_session(progress.on_message) as session:
        if measure_share:
            per_trial = measure_gpu_share(session, state, places, per_trial, progress)
        return estimate_remaining(session, state, places, per_trial, progress, loading_s=loading_s)


def print_estimate(cost: Estimate) -> None:
    """Print an estimate as text."""
    print_grid([*HEADER, cost.unit], [_row(kind) for kind in cost.kinds], keys=3)
    for line in estimate_lines(cost):
        out.print(line, markup=False)


def _row(kind: "KindCost") -> list[str]:
    config, timing = kind.config, kind.timing
    trials = f"{kind.trials} + ≤ {kind.later}" if kind.later else str(kind.trials)
    return [
        *(str(getattr(config, name)) for name in KIND_FIELDS),
        trials,
        str(config.epochs),
        str(timing.steps),
        str(timing.evaluated),
        figure(timing.epoch_s),
        figure(timing.trial_s(config.epochs)),
        figure(kind.hours),
    ]


def estimate_lines(cost: Estimate) -> list[str]:
    """Format the totals, one per line."""
    pool = cost.pool
    each = counted(pool.gpus, "GPU") if pool.gpus else counted(pool.cpus, "CPU")
    trials = f"trials:  {cost.trials} missing"
    compute = f"compute: {figure(cost.hours)} {cost.unit}"
    if cost.later:
        trials += f", and at most {cost.later} that depend on results"
        hours = figure(cost.later_hours)
        compute += f", and at most {hours} for those that depend on results"
    workers = duration(pool.workers_s)
    if cost.rounds > 1:
        workers = f"{cost.rounds} × {workers}"
    kinds = kinds_of_trials(len(cost.kinds))
    basis = f"These are estimates, from {cost.measured_s:.0f} s measured over {kinds}"
    basis += "; the scheduler may stop some early, so at most that." if cost.scheduled else "."
    return [
        trials,
        compute,
        f"wall:    {duration(cost.start_s + cost.wall_s)}: {duration(pool.start_s)} to start Ray, "
        f"{workers} to start its workers, and {duration(cost.wall_s)} of training with "
        f"{pool.slots} side by side, {each} each, in the plan's order",
        f"disk:    {size(cost.record_bytes)} of records, at a time {size(cost.checkpoint_bytes)} "
        "of checkpoints; MLflow's store is not counted",
        basis,
    ]


def estimate_values(cost: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON values."""
    return {
        "estimate": True,
        "unit": cost.unit,
        "trials": cost.trials,
        "at_most_later": cost.later,
        "hours": cost.hours,
        "at_most_later_hours": cost.later_hours,
        "start_s": cost.start_s,
        "wall_s": cost.start_s + cost.wall_s,
        "side_by_side": cost.pool.slots,
        "cpus_per_trial": cost.pool.cpus,
        "gpus_per_trial": cost.pool.gpus,
        "record_bytes": cost.record_bytes,
        "checkpoint_bytes": cost.checkpoint_bytes,
        "measured_s": cost.measured_s,
        "scheduler_may_stop_early": cost.scheduled,
        "kinds": [_kind_values(kind) for kind in cost.kinds],
    }


def _kind_values(kind: "KindCost") -> dict[str, Any]:
    config, timing = kind.config, kind.timing
    return {
        **{name: getattr(config, name) for name in KIND_FIELDS},
        "trials": kind.trials,
        "at_most_later": kind.later,
        "epochs": config.epochs,
        "steps_per_epoch": timing.steps,
        "images_evaluated_per_epoch": timing.evaluated,
        "epoch_s": timing.epoch_s,
        "trial_s": timing.trial_s(config.epochs),
        "hours": kind.hours,
        "measured_s": timing.measured_s,
    }


def size(n_bytes: float) -> str:
    """Format a number of bytes, e.g. ``12.3 KiB`` or ``4.00 GiB``."""
    for unit, bytes_per_unit in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if n_bytes < bytes_per_unit << 10:
            return f"{figure(n_bytes / bytes_per_unit)} {unit}"
    return f"{figure(n_bytes / (1 << 30))} GiB"

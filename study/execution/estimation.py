"""Cost of the missing trials, timed on the run's machines."""

from dataclasses import replace
from typing import TYPE_CHECKING

from dh2l.config.train_config import TrainConfig
from study.execution.estimate.cost import Estimate, estimate
from study.execution.estimate.workload import TimingTask, Workload
from study.execution.observers import Observer
from study.execution.scheduling import next_trials, representative_trials
from study.records.paths import Places
from study.spec.sampling import any_point
from study.state.study_state import StudyState

if TYPE_CHECKING:
    from study.execution.ray_backend import Resources, Session


def measure_gpu_share(
    session: "Session",
    state: StudyState,
    places: Places,
    resources: "Resources",
    observer: Observer,
) -> "Resources":
    """Measure the best share of a GPU for the trials of a run, and return resources with it."""
    from study.execution.ray_backend import with_measured_gpu_share

    configs = representative_trials(state)
    if not configs:
        return resources
    return with_measured_gpu_share(session, resources, configs, places, observer)


def remaining_workload(state: StudyState) -> Workload:
    """Return the trials that a run may train.

    Trials that depend on results are represented by one config of their cell.
    """
    study = state.study
    fresh = study.confirm.seeds if study.confirm else []
    searched: list[TrainConfig] = []
    confirming: list[TrainConfig] = []
    for cell, spec in zip(state.plan.cells, state.plan.cell_configs, strict=True):
        values = cell.candidates[0].values if cell.candidates else any_point(spec)
        searched += [
            spec.config(values, seed) for _ in range(cell.candidates_left) for seed in study.seeds
        ]
        if state.awaits_choice(cell):
            confirming += [spec.config(values, seed, confirm=True) for seed in fresh]
    return Workload(
        tuple(next_trials(state)), tuple(searched), tuple(confirming), study.scheduler is not None
    )


def timing_tasks(state: StudyState, work: Workload, places: Places) -> dict[str, TimingTask]:
    """Return a timing task for each kind of trial, with as many evaluations as in a run."""
    every = 1 if state.study.accuracy == "oracle" else None
    trees = state.plan.trees
    return {
        key: TimingTask(
            config,
            places.data,
            None if config.tree_file is None else trees[config.tree_hash].paths,
            evaluate_every=every,
        )
        for key, config in work.kinds.items()
    }


def estimate_remaining(
    session: "Session",
    state: StudyState,
    places: Places,
    resources: "Resources",
    observer: Observer,
    *,
    loading_s: float = 0.0,
) -> Estimate:
    """Estimate the cost of a run from trials timed on its machines. Keeps no files.

    Args:
        session: Ray session that times the trials.
        state: state of the study, with trials left to train.
        places: paths of the data.
        resources: resources of one trial.
        observer: receives messages.
        loading_s: seconds that the driver takes to load Ray, as part of the start.

    Raises:
        UserError: the cluster cannot be reached or is too small, or a trial cannot be timed.
    """
    from study.execution.ray_backend import time_kinds

    work = remaining_workload(state)
    tasks = timing_tasks(state, work, places)
    timings, pool = time_kinds(
        session, tasks, len(work.missing) + len(work.later), resources, observer
    )
    return estimate(work, timings, replace(pool, start_s=pool.start_s + loading_s))

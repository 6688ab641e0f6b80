"""Adapters of searchers and schedulers to Ray Tune."""

from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import Searcher as RaySearcher

from dh2l.config.train_config import TrainConfig
from study.execution.preflight import Check, check_group
from study.execution.search.base import Searcher, TrialOutcome
from study.spec.schema import SchedulerSettings


class NotPickled:
    """Base of the objects that drive a run, which pickle to nothing.

    Ray pickles them for `Tuner.restore`. A run resumes from its records instead.
    """

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


class SearchAdapter(NotPickled, RaySearcher):  # type: ignore[misc] # ray is untyped here
    """Adapter that passes a searcher's trials to Ray, and their outcomes back.

    The first workers perform their share of the checks before they train their trial.
    """

    def __init__(
        self,
        searcher: Searcher,
        stopping: Callable[[], bool],
        checks: Sequence[Check] = (),
        workers: int = 1,
    ) -> None:
        """Wrap a searcher.

        Args:
            searcher: suggests the trials.
            stopping: returns True when the run should end early.
            checks: steps to take before the first trials.
            workers: number of workers that share the checks.
        """
        super().__init__(metric="validation_accuracy", mode="max")
        self._searcher, self._stopping, self._workers = searcher, stopping, workers
        self._checks = {check_group(check.config): check for check in checks}
        self._unchecked = set(self._checks)
        self._identities: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        config = None if self._stopping() else self._searcher.suggest()
        if config is None:
            return RaySearcher.FINISHED
        self._identities[trial_id] = config.identity
        return {
            "identity": config.identity,
            "config": config.model_dump(),
            "checks": self._due(check_group(config)),
        }

    def _due(self, own: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the checks of a trial's worker, first that of the trial's own kind."""
        if not self._workers:
            return []
        self._unchecked.discard(own)
        share = sorted(self._unchecked)[: -(-len(self._unchecked) // self._workers)]
        self._unchecked.difference_update(share)
        self._workers -= 1
        its = [self._checks[key] for key in (own, *share) if key in self._checks]
        return [{"cell": check.cell, "config": check.config.model_dump()} for check in its]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        outcome: TrialOutcome = "failed"
        if result and not error:
            outcome = result.get("state") or "stopped"
        self._searcher.tell(self._identities[trial_id], outcome)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing, because a run resumes from its records."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class PerCellScheduler(NotPickled, FIFOScheduler):  # type: ignore[misc] # ray is untyped here
    """Scheduler with one of Ray's schedulers for each group of trials.

    A trial is thus never stopped for being worse than trials of another arm. A trial without a
    group is never stopped.
    """

    def __init__(self, settings: SchedulerSettings, group_of: Callable[[str], str | None]) -> None:
        super().__init__()
        self._settings, self._group_of = settings, group_of
        self._schedulers: dict[str | None, TrialScheduler] = {None: FIFOScheduler()}

    def _of(self, trial: Any) -> TrialScheduler:
        config = config_of(trial)
        group = self._group_of(config.identity)
        if group not in self._schedulers:
            self._schedulers[group] = self._make(config.epochs)
        return self._schedulers[group]

    def _make(self, epochs: int) -> TrialScheduler:
        words = {"time_attr": "epoch", "metric": "validation_accuracy", "mode": "max"}
        if self._settings.kind == "median":
            return MedianStoppingRule(**words, grace_period=self._settings.grace_epochs)
        return AsyncHyperBandScheduler(
            **words,
            max_t=epochs,
            grace_period=min(self._settings.grace_epochs, epochs),
            reduction_factor=self._settings.reduction_factor,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if "validation_accuracy" in result:
            self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)


def config_of(trial: Any) -> TrainConfig:
    """Return the config of a trial of Ray Tune."""
    return TrainConfig.model_validate(trial.config["config"])

"""Number of a study's trials, and the work that they take."""

from collections.abc import Callable
from dataclasses import dataclass, field

from dh2l.config.train_config import TrainConfig
from dh2l.wording import counted
from study.execution.estimate.workload import epoch_work
from study.execution.estimation import remaining_workload
from study.execution.shards import Shard
from study.state.remaining import missing_trials, skippable_trials, trials_to_come, trials_to_search
from study.state.study_state import StudyState


@dataclass(frozen=True)
class Tally:
    """Numbers of a study's trials.

    Attributes:
        over: number of trials that a run leaves alone.
        left: number of trials that a run trains.
        later: maximum number of trials that choices and searches may add.
        at_most: True if there may be fewer, because a scheduler stops some or a searcher suggests
            fewer.
    """

    over: int
    left: int
    later: int = 0
    at_most: bool = False

    @property
    def total(self) -> int:
        """Number of all trials."""
        return self.over + self.left + self.later

    def __str__(self) -> str:
        words = counted(self.total, "trial")
        return f"at most {words}" if self.at_most else words


@dataclass(frozen=True)
class Outlook:
    """The trials to come of a run.

    Attributes:
        tally: their numbers.
        missing: configs of the trials that are known.
        later: representative configs of the trials that depend on results.
        stage: returns the stage of the run to which a trial belongs, in a word.
        epoch_work: returns the work of an epoch of a trial, in any unit.
    """

    tally: Tally = field(default_factory=lambda: Tally(0, 0))
    missing: tuple[TrainConfig, ...] = ()
    later: tuple[TrainConfig, ...] = ()
    stage: Callable[[TrainConfig], str] = lambda _: "training"
    epoch_work: Callable[[TrainConfig], float] = lambda _: 1.0

    @property
    def trains(self) -> bool:
        """True if there is a trial to train."""
        return bool(self.missing or self.later)


def tally_of(state: StudyState) -> Tally:
    """Count a study's trials."""
    left = len(missing_trials(state))
    over = len(state.states) - left - len(skippable_trials(state))
    at_most = state.study.scheduler is not None or trials_to_search(state) > 0
    return Tally(over, left, trials_to_come(state), at_most)


def outlook(state: StudyState, share: Shard | None = None) -> Outlook:
    """Collect the trials to come of a run, or of a share of it."""
    work = remaining_workload(state)
    tally = tally_of(state)
    missing, later = work.missing, work.later
    if share is not None:
        missing = tuple(state.plan.config(identity) for identity in share.missing(state))
        later = later[: share.at_most_later(state)]
        known = set(share.of(state.plan)) & set(state.states)
        tally = Tally(len(known) - len(missing), len(missing), len(later), at_most=bool(later))
    return Outlook(tally, missing, later, stage_of(state), _work_of(state))


def stage_of(state: StudyState) -> Callable[[TrainConfig], str]:
    """Return a function that returns the stage of the run to which a trial belongs."""
    study = state.study
    fresh = set(study.confirm.seeds if study.confirm else ())
    first = "choosing" if fresh else "training"
    if study.searcher is not None:
        first = "searching"
    return lambda config: "confirming" if config.seed in fresh else first


def _work_of(state: StudyState) -> Callable[[TrainConfig], float]:
    manifest_of = state.plan.cell_configs[0].manifest_of
    return lambda config: epoch_work(config, manifest_of(config.dataset))

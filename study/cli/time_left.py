"""Time left of a run, from trials to come and pace."""

import time
from collections.abc import Callable

from dh2l.config.train_config import TrainConfig
from study.execution.tally import Outlook

ORDER = ("training", "searching", "choosing", "confirming")
"""The stages in the order in which a run comes to them."""


class Remaining:
    """Work left, and the seconds that it takes at the pace of the epochs seen.

    The clock starts with the first epoch, because starting Ray and importing torch are not
    repeated. It stops while no trial runs. The pace is known once there are more epochs than trials
    side by side.

    Args:
        outlook: the trials to come.
        clock: gives seconds.

    Attributes:
        order: the stages in their order.
        any_epoch: whether a trial has finished an epoch.
    """

    order = ORDER

    def __init__(self, outlook: Outlook, clock: Callable[[], float] = time.monotonic) -> None:
        self._outlook, self._clock = outlook, clock
        self._known = {config.identity: config for config in outlook.missing}
        self._later = list(outlook.later)
        self._left = {identity: config.epochs for identity, config in self._known.items()}
        self._running: set[str] = set()
        self._side_by_side = 1
        self._first: float | None = None
        self._idle_since: float | None = None
        self._seen, self._epochs = 0.0, 0
        self.any_epoch = False

    def started(self, config: TrainConfig) -> None:
        """Start a trial; one that was not planned takes the place of a stand-in of its stage."""
        if config.identity not in self._left:
            stage = self._outlook.stage
            place = next(
                (i for i, later in enumerate(self._later) if stage(later) == stage(config)), None
            )
            if place is not None and config.identity not in self._known:
                del self._later[place]
            self._known[config.identity] = config
            self._left[config.identity] = config.epochs
        self._running.add(config.identity)
        self._side_by_side = max(self._side_by_side, len(self._running))

    def epoch(self, config: TrainConfig, epoch: int) -> None:
        """Count an epoch of a trial."""
        now = self._clock()
        self._left[config.identity] = config.epochs - epoch
        self.any_epoch = True
        self._epochs += 1
        if self._first is None:
            self._first = now
        elif self._idle_since is not None:
            self._first += now - self._idle_since
        else:
            self._seen += self._outlook.epoch_work(config)
        self._idle_since = None

    def ended(self, identity: str) -> None:
        """End a trial."""
        self._left.pop(identity, None)
        self._running.discard(identity)
        if not self._running:
            self._idle_since = self._clock()

    @property
    def stages(self) -> set[str]:
        """The stages of the trials to come."""
        its = {self._outlook.stage(self._known[identity]) for identity in self._left}
        return its | {self._outlook.stage(config) for config in self._later}

    def seconds(self) -> float | None:
        """Return the seconds until the last trial ends, stage after stage.

        None while the pace is not known, and at the end. A stage takes no less than its longest
        trial alone.
        """
        until = self._clock() if self._idle_since is None else self._idle_since
        if (
            self._first is None
            or self._epochs <= self._side_by_side
            or until <= self._first
            or not self._seen
        ):
            return None
        work = self._work_by_stage()
        if not work:
            return None
        pace = self._seen / (until - self._first)
        alone = pace / self._side_by_side
        return sum(max(sum(parts) / pace, max(parts) / alone) for parts in work.values())

    def _work_by_stage(self) -> dict[str, list[float]]:
        of_each = [(self._known[identity], epochs) for identity, epochs in self._left.items()]
        of_each += [(config, config.epochs) for config in self._later]
        work: dict[str, list[float]] = {}
        for config, epochs in of_each:
            if epochs:
                parts = work.setdefault(self._outlook.stage(config), [])
                parts.append(epochs * self._outlook.epoch_work(config))
        return work

"""Searcher protocol: suggest the next trial, and receive its outcome."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

from dh2l.config.train_config import TrainConfig

TrialOutcome = Literal["done", "stopped", "diverged", "failed"]


class Searcher(Protocol):
    """Source of the trials of a run, for grids and searches alike.

    Attributes:
        limit: maximum number of trials that it will suggest.
    """

    limit: int

    def suggest(self) -> TrainConfig | None:
        """Return the config of the next trial, or None if there is none left."""

    def tell(self, identity: str, outcome: TrialOutcome) -> None:
        """Receive the outcome of a trial. The record of a trial that is done has been written."""

    def group(self, identity: str) -> str | None:
        """Return the group of a suggested trial, the name of its cell.

        Trials of one group compete while they train. None: the trial does not compete.
        """


class FixedPlanSearcher:
    """Searcher of a plan whose trials are all known: grids and random draws.

    It suggests the missing trials in order. Trials that another driver is training come last,
    because they are probably done by then.
    """

    def __init__(
        self,
        missing: Iterable[TrainConfig],
        groups: Mapping[str, str],
        elsewhere: Callable[[str], bool],
    ) -> None:
        """Collect the trials.

        Args:
            missing: configs of the trials, in order.
            groups: group of each trial that competes with others.
            elsewhere: returns whether another driver is training a trial.
        """
        self._left, self._groups, self._elsewhere = deque(missing), groups, elsewhere
        self.limit = len(self._left)

    def suggest(self) -> TrainConfig | None:
        """Return the next missing trial of the plan."""
        for _ in range(len(self._left)):
            if not self._elsewhere(self._left[0].identity):
                break
            self._left.rotate(-1)
        return self._left.popleft() if self._left else None

    def tell(self, identity: str, outcome: TrialOutcome) -> None:
        """Ignore the outcome, because the plan does not depend on results."""

    def group(self, identity: str) -> str | None:
        """Return the cell of a trial that competes with others."""
        return self._groups.get(identity)

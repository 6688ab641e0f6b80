"""What comes next: a searcher gives trials one by one and takes back what became of them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

from dh2l.config.train_config import TrainConfig

TrialOutcome = Literal["done", "stopped", "diverged", "failed"]


class Searcher(Protocol):
    """The one interface by which grids and searches drive the trials.

    Attributes:
        limit: the most trials that it will give.
    """

    limit: int

    def suggest(self) -> TrainConfig | None:
        """The next trial's config, or None where there is none left."""

    def tell(self, identity: str, outcome: TrialOutcome) -> None:
        """Take back how a trial ended; the record of one that is done has been filed."""

    def group(self, identity: str) -> str | None:
        """The cell of a trial that it gave: trials of one compete while they train. None: it competes with none."""


class FixedPlanSearcher:
    """Gives a plan's missing trials in their order: grids and draws are known beforehand.

    Those that another driver trains just now come last: most likely they are done by then.
    """

    def __init__(
        self,
        missing: Iterable[TrainConfig],
        groups: Mapping[str, str],
        elsewhere: Callable[[str], bool],
    ) -> None:
        self._left, self._groups, self._elsewhere = deque(missing), groups, elsewhere
        self.limit = len(self._left)

    def suggest(self) -> TrainConfig | None:
        """The plan's next missing trial."""
        for _ in range(len(self._left)):
            if not self._elsewhere(self._left[0].identity):
                break
            self._left.rotate(-1)
        return self._left.popleft() if self._left else None

    def tell(self, identity: str, outcome: TrialOutcome) -> None:
        """Nothing to learn: what a plan tries does not depend on results."""

    def group(self, identity: str) -> str | None:
        """The trial's cell, where it competes."""
        return self._groups.get(identity)

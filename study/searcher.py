"""What comes next: a searcher gives trials one by one and takes back what became of them."""

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from dh2l.config import TrainConfig


class Searcher(Protocol):
    """The one interface by which grids and searches drive the trials."""

    def suggest(self) -> TrainConfig | None:
        """The next trial's config, or None where there is none left."""

    def tell(self, identity: str, score: float | None) -> None:
        """Take back a trial's validation accuracy; None where it has none."""


class PlanSearcher:
    """Gives a plan's missing trials in their order: grids and draws are known beforehand."""

    def __init__(self, missing: Iterable[TrainConfig]) -> None:
        self._left = deque(missing)

    def suggest(self) -> TrainConfig | None:
        """The plan's next missing trial."""
        return self._left.popleft() if self._left else None

    def tell(self, identity: str, score: float | None) -> None:
        """Nothing to learn: what a plan tries does not depend on results."""

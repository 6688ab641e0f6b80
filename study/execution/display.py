"""Observers that show a run: displays on a terminal, trackers elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from study.execution.observers import Observer
from study.execution.tally import Outlook
from study.state.results import StudyResults
from study.state.study_state import StudyState


class Tracker(Observer):
    """Observer that shows a run elsewhere, such as in MLflow.

    Attributes:
        problem: reason why the view is incomplete; empty if it is complete.
        notes: messages for the user.
    """

    problem: str
    notes: list[str]

    def close(self, results: StudyResults) -> None:
        """Bring the view up to date with the results."""


class Display(Observer):
    """Observer that shows a run to a person. The base class shows nothing."""

    def opened(self, state: StudyState, ahead: Outlook) -> None:
        """Show the study before its run."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the display up to date inside the context."""
        yield

    def starting_ray(self) -> None:
        """Show that Ray is starting."""

    def finishing(self) -> None:
        """Show that the last trial has ended."""

    def warn(self, sentence: str) -> None:
        """Show a warning."""

"""The display of a run in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape

from dh2l.config.train_config import TrainConfig
from dh2l.results import EpochResult
from study.cli.console import counts, err, out, plan_line
from study.cli.progress import LAST, RunProgress
from study.execution.display import Display
from study.execution.tally import Outlook
from study.records.record import Record
from study.state.study_state import StudyState


class RunDisplay(Display):
    """Shows the plan, then the progress of a run."""

    def __init__(self) -> None:
        self._progress = RunProgress(out)
        self._opened = False

    def opened(self, state: StudyState, ahead: Outlook) -> None:
        """Print the plan in a line."""
        out.print(f"{plan_line(state)} {counts(state)}.")
        self._progress = RunProgress(out, ahead)
        self._opened = True

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the progress up to date inside the context."""
        with self._progress.shown():
            yield

    def starting_ray(self) -> None:
        """Show that Ray is starting."""
        self._progress.phase("starting Ray")

    def finishing(self) -> None:
        """Show that the last trial has ended."""
        self._progress.phase(LAST)

    def on_trial_start(self, config: TrainConfig) -> None:
        """Show that a trial has begun."""
        self._progress.on_trial_start(config)

    def on_epoch_end(self, config: TrainConfig, result: EpochResult) -> None:
        """Show an epoch of a trial."""
        self._progress.on_epoch_end(config, result)

    def on_trial_end(self, record: Record) -> None:
        """Show the end of a trial."""
        self._progress.on_trial_end(record)

    def on_message(self, sentence: str) -> None:
        """Print a sentence: on stderr before the run, above the progress in it."""
        if self._opened:
            self._progress.on_message(sentence)
        else:
            err.print(f"[yellow]note:[/yellow] {escape(sentence)}")

    def warn(self, sentence: str) -> None:
        """Print a warning on stderr."""
        err.print(f"[yellow]warning:[/yellow] {escape(sentence)}")

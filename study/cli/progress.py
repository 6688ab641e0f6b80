"""Display of a running study: live in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dh2l.config.train_config import TrainConfig
from dh2l.results import EpochResult
from study.cli.time_left import Remaining
from study.execution.observers import Observer
from study.execution.tally import Outlook
from study.records.record import Record

LAST = "rendering the table"
"""The phase after the last trial."""
STARTING = "starting"
"""Where the epoch of a trial is shown that has finished none."""
FIGURES = ("epoch", "train loss", "validation", "images/s")
"""Columns beside a running trial."""
PLAIN_S = 30.0
"""Seconds between two plain lines about trials in training."""


class RunProgress(Observer):
    """Phase of a run, its done, running and failed trials, the time left and the best accuracy."""

    def __init__(self, console: Console, outlook: Outlook | None = None) -> None:
        self._console, self._outlook = console, outlook or Outlook()
        tally = self._outlook.tally
        self._over, self._total = tally.over, tally.total
        self._remaining = Remaining(self._outlook)
        self._running: dict[str, tuple[TrainConfig, EpochResult | None]] = {}
        self._outcomes: dict[str, str] = {}
        self._best: tuple[float, str] | None = None
        self._said = time.monotonic()
        self._phase = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("trials", total=self._total, completed=self._over, eta="")
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the display up to date inside the context, where there is something to train."""
        if not (self._console.is_terminal and self._outlook.trains):
            yield
            return
        with Live(
            get_renderable=self._render, console=self._console, refresh_per_second=4
        ) as self._live:
            yield
        self._live = None

    def phase(self, words: str) -> None:
        """Show another phase of the run."""
        if words != self._phase:
            self._phase = words
            self._bar.update(self._task, description=words)
            if self._live is None:
                self._console.print(f"{words} ...")

    def on_trial_start(self, config: TrainConfig) -> None:
        """Count a trial that has begun."""
        self._running[config.identity] = (config, None)
        self._remaining.started(config)
        if not self._remaining.any_epoch:
            self.phase("first steps")

    def on_epoch_end(self, config: TrainConfig, result: EpochResult) -> None:
        """Count an epoch that a trial has finished."""
        self._running[config.identity] = (config, result)
        self._remaining.epoch(config, result.epoch)
        self._turn()
        accuracy = result.metrics.get("validation_accuracy")
        if accuracy is not None and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, config.identity)
        if self._live is None and time.monotonic() - self._said >= PLAIN_S:
            self._said = time.monotonic()
            eta = self._eta()
            self._console.print(
                f"{config.identity}: epoch {result.epoch}/{config.epochs}, {_accuracies(result)}"
                + (f", {eta}" if eta else "")
            )

    def on_trial_end(self, record: Record) -> None:
        """Count a trial whose record has been written."""
        self._running.pop(record.identity, None)
        self._remaining.ended(record.identity)
        self._outcomes[record.identity] = record.state
        number = self._over + len(self._outcomes)
        self._bar.update(self._task, completed=number)
        style = {"done": "green", "stopped": "yellow"}.get(record.state, "red")
        self._console.print(
            f"\\[{number}/{self._total}] [{style}]{record.state}[/{style}] {record.identity}: "
            f"{escape(_ending(record))}",
            soft_wrap=self._live is None,
        )
        self._turn()

    def on_message(self, sentence: str) -> None:
        """Something that the user should know."""
        self._console.print(escape(sentence), soft_wrap=self._live is None)

    def _turn(self) -> None:
        """Turn to the phase of the trials that run, or of those that come next."""
        stages = {
            self._outlook.stage(config) for config, _ in self._running.values()
        } or self._remaining.stages
        first = next((stage for stage in self._remaining.order if stage in stages), None)
        if first is not None:
            self.phase(first)
        elif self._over + len(self._outcomes) >= self._total:
            self.phase(LAST)

    def _render(self) -> RenderableType:
        self._bar.update(self._task, eta=self._eta())
        table = Table(box=None, pad_edge=False)
        widths = {heading: max(len(heading), len(STARTING)) for heading in FIGURES}
        rest = self._console.width - sum(widths.values()) - 2 * len(widths)
        table.add_column("running", overflow="ellipsis", no_wrap=True, max_width=max(10, rest))
        for heading, width in widths.items():
            table.add_column(heading, no_wrap=True, justify="right", width=width)
        for identity, (config, result) in self._running.items():
            table.add_row(identity, *_figures(config, result))
        states = Counter(self._outcomes.values())
        over = self._over + states.pop("done", 0)
        others = "".join(f", {n} {state}" for state, n in sorted(states.items()))
        lines: list[RenderableType] = [table] if self._running else []
        lines.append(Text(f"{over} done, {len(self._running)} running{others}"))
        if self._best:
            best = f"best on validation: {100 * self._best[0]:.2f}%, {self._best[1]}"
            lines.append(Text(best, no_wrap=True, overflow="ellipsis"))
        return Group(*lines, self._bar)

    def _eta(self) -> str:
        """Describe the time left; empty while no pace is known, and at the end."""
        seconds = self._remaining.seconds()
        if seconds is None:
            return ""
        words = "at most" if self._outlook.tally.at_most else "about"
        return f"{words} {duration(max(1.0, seconds))} left"


def _figures(config: TrainConfig, result: EpochResult | None) -> tuple[str, ...]:
    if result is None:
        return STARTING, "", "", ""
    metrics = result.metrics
    validation = metrics.get("validation_accuracy")
    return (
        f"{result.epoch}/{config.epochs}",
        f"{metrics['train_loss']:.3f}",
        "" if validation is None else f"{100 * validation:.2f}%",
        f"{metrics['images_per_s']:.0f}",
    )


def _ending(record: Record) -> str:
    """Describe in a line how a trial ended."""
    if record.last is None:
        return (
            (record.failure.message.splitlines() or [record.failure.kind])[0]
            if record.failure
            else ""
        )
    validation = record.last.validation_accuracy
    before = "" if validation is None else f"validation {100 * validation:.2f}%, "
    return f"{before}test {100 * record.last.test_accuracy:.2f}% after epoch {record.last.epoch}"


def _accuracies(result: EpochResult) -> str:
    parts = [f"train loss {result.metrics['train_loss']:.3f}"]
    if (validation := result.metrics.get("validation_accuracy")) is not None:
        parts.append(f"validation {100 * validation:.2f}%")
    return ", ".join(parts)


def epoch_line(config: TrainConfig, result: EpochResult) -> str:
    """One epoch as a line, for a trial that is watched alone."""
    seconds = result.metrics["seconds"] or 0.0
    return f"epoch {result.epoch}/{config.epochs}: {_accuracies(result)} ({seconds:.1f} s)"


def duration(seconds: float) -> str:
    """Format a duration for people: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

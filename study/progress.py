"""What a person sees while a study runs: a live display in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dh2l.config import TrainConfig
from dh2l.results import EpochResult
from study.records import Record

PLAIN_S = 30.0
"""Seconds between two plain lines about trials in training."""


class RunProgress:
    """Shows done, running and failed trials, the time left, and the best validation accuracy so far."""

    def __init__(self, console: Console, done: int, total: int, missing: Iterable[TrainConfig]) -> None:
        self._console, self._total = console, total
        self._epochs = {config.identity: config.epochs for config in missing}
        self._epochs_left = dict(self._epochs)
        self._running: dict[str, EpochResult | None] = {}
        self._done_before = done
        self._outcomes: dict[str, str] = {}
        self._best: tuple[float, str] | None = None
        self._said = time.monotonic()
        self._first_epoch: float | None = None
        self._epochs_seen = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=total, completed=done, eta="")
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the display up to date while the context lasts."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    def started(self, config: TrainConfig) -> None:
        """A trial has begun."""
        self._running[config.identity] = None
        self._epochs[config.identity] = config.epochs

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """A trial has finished an epoch."""
        self._running[config.identity] = result
        self._epochs_left[config.identity] = config.epochs - result.epoch
        if self._first_epoch is None:  # what came before it, starting Ray and importing torch, is not repeated
            self._first_epoch = time.monotonic()
        else:
            self._epochs_seen += 1
        accuracy = result.metrics.get("validation_accuracy")
        if accuracy is not None and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, config.identity)
        if not self._console.is_terminal and time.monotonic() - self._said >= PLAIN_S:
            self._said = time.monotonic()
            self._console.print(
                f"{config.identity}: epoch {result.epoch}/{config.epochs}, "
                f"{_accuracies(result)}{self._eta(', {} left')}",
            )

    def filed(self, record: Record) -> None:
        """A trial's record has been filed."""
        self._running.pop(record.identity, None)
        self._epochs_left.pop(record.identity, None)
        self._outcomes[record.identity] = record.state
        self._bar.update(self._task, completed=self._done_before + len(self._outcomes))
        if record.last is not None:
            validation = record.last.validation_accuracy
            what = "" if validation is None else f"validation {100 * validation:.2f}%, "
            line = f"{what}test {100 * record.last.test_accuracy:.2f}% after epoch {record.last.epoch}"
        else:
            line = (record.failure.message.splitlines() or [record.failure.kind])[0] if record.failure else ""
        style = {"done": "green", "stopped": "yellow"}.get(record.state, "red")
        number = self._done_before + len(self._outcomes)
        self._console.print(
            f"\\[{number}/{self._total}] [{style}]{record.state}[/{style}] {record.identity}: {escape(line)}"
        )

    def note(self, sentence: str) -> None:
        """Something that the user should know."""
        self._console.print(escape(sentence))

    def _render(self) -> RenderableType:
        self._bar.update(self._task, eta=self._eta("about {} left"))
        table = Table("running", "epoch", "train loss", "validation", "images/s", box=None, pad_edge=False)
        for identity, result in self._running.items():
            if result is None:
                table.add_row(identity, "starting", "", "", "")
                continue
            metrics = result.metrics
            validation = metrics.get("validation_accuracy")
            table.add_row(
                identity,
                f"{result.epoch}/{self._epochs[identity]}",
                f"{metrics['train_loss']:.3f}",
                "" if validation is None else f"{100 * validation:.2f}%",
                f"{metrics['images_per_s']:.0f}",
            )
        states = Counter(self._outcomes.values())
        done = self._done_before + states.pop("done", 0)
        failed = "".join(f", {n} {state}" for state, n in sorted(states.items()))
        best = f"; best on validation {100 * self._best[0]:.2f}% ({self._best[1]})" if self._best else ""
        return Group(table, f"{done} done, {len(self._running)} running{failed}{best}", self._bar)

    def _eta(self, words: str) -> str:
        """Time left, from the epochs seen so far; empty while there are none."""
        if self._first_epoch is None or not self._epochs_seen:
            return ""
        seconds = sum(self._epochs_left.values()) * (time.monotonic() - self._first_epoch) / self._epochs_seen
        return words.format(duration(seconds))


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
    """A duration for people: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

"""Training of one trial: a resumable generator of epoch results."""

import time
import warnings
from collections.abc import Generator
from typing import Any

import torch

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData
from dh2l.io.files import AnyPath
from dh2l.results import EpochResult, TrainResult
from dh2l.training import checkpoint
from dh2l.training.numeric_settings import numeric_settings
from dh2l.training.training_state import Training

CHECKPOINT_SECONDS = 5.0
"""Least time between two checkpoints of a trial."""


def train(  # noqa: PLR0913 the options of one function are keywords
    config: TrainConfig,
    data: PreparedData,
    *,
    device: str | None = None,
    threads: int | None = None,
    checkpoints: AnyPath | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    evaluate_every: int | None = None,
    best_test: bool = False,
    environment: dict[str, Any] | None = None,
) -> Generator[EpochResult, None, TrainResult]:
    """Train one trial, yielding one result per epoch and returning a `TrainResult`.

    Args:
        config: the trial; its hashes, where set, must be those of `data`.
        data: the prepared data set.
        device: a torch device; default: the GPU where there is one.
        threads: CPU threads; default: torch's setting.
        checkpoints: folder for the trial's checkpoint. Where it holds one, training goes on from
            there, with the same results as if it had never stopped: bit for bit on a CPU with the
            same number of threads, and on a GPU with `deterministic: true`.
        checkpoint_seconds: least time between two checkpoints; the last epoch always leaves one.
        evaluate_every: epochs between two evaluations of the test set, counted back from the last
            epoch; default: `evaluation_interval`. Each new best validation epoch is evaluated too.
            No other number depends on it.
        best_test: evaluate the test set after every epoch, and start anew rather than from a
            checkpoint whose epochs were not all evaluated, so that the best epoch on the test set
            is known (D16).
        environment: JSON values to keep with this process's entry among `TrainResult.attempts`.

    Raises:
        Diverged: a loss was not finite.
        UserError: config and data do not fit.
    """
    config = bind(config, data.manifest)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with numeric_settings(config, threads):
        run = Training(config, data, where, evaluate_every=1 if best_test else evaluate_every)
        state = checkpoint.load(checkpoints, config.identity) if checkpoints else None
        if state and not (best_test and None in state["history"]["test_accuracy"]):
            run.restore(state)
        saved, saved_epoch = time.monotonic(), run.epochs_done
        run.start_attempt(environment or {})
        for epoch in range(run.epochs_done + 1, config.epochs + 1):
            result = run.epoch(epoch)
            if checkpoints and (
                epoch == config.epochs or time.monotonic() - saved >= checkpoint_seconds
            ):
                saved, saved_epoch = _save(checkpoints, run), epoch
            try:
                yield result
            except GeneratorExit:
                if checkpoints and saved_epoch != epoch:  # who stops here may want to go on here
                    _save(checkpoints, run)
                raise
        return run.result()


def _save(folder: AnyPath, run: Training) -> float:
    """Save a checkpoint and return the time; warn if it fails: a later one may succeed."""
    try:
        checkpoint.save(folder, run.state())
    except OSError as error:
        warnings.warn(
            f"no checkpoint is saved in {folder} ({error.strerror}); training goes on", stacklevel=2
        )
    return time.monotonic()

"""Torch's process-wide numeric settings, as a config needs them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dh2l.config.train_config import TrainConfig


@contextmanager
def numeric_settings(config: TrainConfig, threads: int | None) -> Iterator[None]:
    """Set torch's switches for a config inside the context, and restore them afterwards."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined] # made at import
    products: Any = torch.backends.cuda.matmul
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        convolutions.fp32_precision,
        products.fp32_precision,
    )
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if threads is not None:
        torch.set_num_threads(threads)
    _only_deterministic(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic
    convolutions.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        _only_deterministic(before[1])
        torch.backends.cudnn.benchmark = before[2]
        convolutions.fp32_precision, products.fp32_precision = before[3], before[4]


def _only_deterministic(wanted: bool) -> None:
    """Set torch's switch if it changes, because setting it imports torch's compiler: seconds."""
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)

"""Fixtures of tests on a GPU."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises RuntimeError."""

    def switch(mode: str) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Synchronization debug mode is a prototype feature"
            )
            torch.cuda.set_sync_debug_mode(mode)

    switch("error")
    try:
        yield
    finally:
        switch("default")

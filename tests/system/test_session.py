"""One Ray for all that a command does, and its end while other threads go on."""

import signal
import subprocess
import sys

import pytest
from study_fixtures import clean_environment

from study.execution.interrupts import terminable

SHARED = """
import gc
import threading

import ray

from study.execution.ray_backend import Resources, open_session


class Cycle:
    def __init__(self, reference):
        self.reference, self.own = reference, self


def collect():
    while True:
        [Cycle(None) for _ in range(50)]
        if garbage:
            garbage.pop()


with open_session(print) as session:
    first = session.start(Resources())
    node = ray.get_runtime_context().get_node_id()
    assert session.start(Resources()) == first
    assert ray.get_runtime_context().get_node_id() == node
    print("SHARED", flush=True)
    garbage = [Cycle(ray.put(i)) for i in range(20_000)]
    gc.set_threshold(200, 2, 2)
    threading.Thread(target=collect, daemon=True).start()
print("SURVIVED", flush=True)
"""


def test_a_session_shares_one_ray_and_its_end_survives_references_that_another_thread_frees() -> (
    None
):
    run = subprocess.run(
        [sys.executable, "-c", SHARED],
        capture_output=True,
        text=True,
        timeout=180,
        env=clean_environment(),
        check=False,
    )
    assert run.stdout.split() == ["SHARED", "SURVIVED"], run.stderr
    assert run.returncode == 0


def test_sigterm_is_a_keyboard_interrupt_only_within_its_context() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before

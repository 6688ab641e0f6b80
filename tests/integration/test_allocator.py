"""The allocator keeps a step's buffers, and gives them back at the end. Each case in a process of
its own.
"""

import json
import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import contextlib, json, resource, sys
import psutil
from dh2l.training.allocator import retain_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def touch():
    block = bytearray(1 << 26)  # as large as a layer's activations: 16,384 pages, all of them written

kept = sys.argv[1] == "kept"
with retain_freed_memory() if kept else contextlib.nullcontext(None) as taken:
    touch()
    before = faults()
    for _ in range(5):
        touch()
    during, resident = faults() - before, psutil.Process().memory_info().rss
print(json.dumps({"taken": taken, "faults": during, "returned": resident - psutil.Process().memory_info().rss}))
"""


def measured(way: str) -> dict[str, int]:
    run = subprocess.run(
        [sys.executable, "-c", ALLOCATE, way], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, int] = json.loads(run.stdout)
    return found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_large_buffers_fault_in_their_pages_once_and_are_given_back_at_the_end() -> None:
    kept, plain = measured("kept"), measured("plain")
    assert kept["taken"]
    assert plain["faults"] >= 5 * 16_000
    assert kept["faults"] < 1_000
    assert kept["returned"] > 60_000_000
    assert abs(plain["returned"]) < 1_000_000

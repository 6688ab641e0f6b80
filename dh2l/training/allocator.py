"""The C library's allocator, told to keep freed memory between steps."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Names and numbers of mallopt's parameters, malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@contextmanager
def retain_freed_memory() -> Iterator[bool]:
    """Keep freed memory for the next allocation inside the context.

    The GNU C library takes every large buffer from the system and returns it when it is freed, so
    that a training step on a CPU faults in each page of its activations anew: a third of its time,
    for resnet-20 at batch 512. In this context large buffers stay in the heap. It is a setting of
    the whole process and stays for its life; other C libraries are left alone.

    Yields:
        Whether the C library took the setting.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield False
        return
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 1 << 26}
    taken = all(library.mallopt(parameter, value) for parameter, value in settings.items())
    try:
        yield taken
    finally:
        library.malloc_trim(0)

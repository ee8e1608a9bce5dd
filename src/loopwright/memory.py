"""The C library's heap: keeping freed buffers for the length of a run on a CPU."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MIB = 2**20

# Parameters of mallopt(3), numbered as in glibc's <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

_KEEPING = {_MMAP_THRESHOLD: 1024 * _MIB, _TRIM_THRESHOLD: 2047 * _MIB, _TOP_PAD: 64 * _MIB}

# Where glibc's own adjustment ends up in a process that frees large blocks (its upper limits).
# Setting any value switches that adjustment off, so it cannot be handed back as it was.
_AFTERWARDS = {_MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB, _TOP_PAD: _MIB // 8}


@contextmanager
def kept_buffers(enabled: bool = True) -> Iterator[None]:
    """Keep freed memory in the process while the body runs, and give it back afterwards.

    By default glibc returns large freed blocks to the kernel, so that each step of a model with
    large activations pays again for mapping and clearing its pages. Does nothing outside glibc.

    Args:
        enabled: False leaves the heap alone.
    """
    libc = _glibc() if enabled else None
    if libc is None:
        yield
        return
    for parameter, value in _KEEPING.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _AFTERWARDS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None

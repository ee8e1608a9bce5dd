"""The C library's heap: keeping freed buffers for the length of a run on a CPU."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MIB = 2**20

# Parameters of mallopt(3), numbered as in glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

_MMAP_THRESHOLDS = (1024 * _MIB, 32 * _MIB)  # older versions refuse what is above 32 MiB
_KEPT_AT_THE_TOP = 2047 * _MIB

# Where glibc's own adjustment ends up in a process that frees large blocks (its upper limits).
# Setting any value switches that adjustment off, so it cannot be handed back as it was.
_AFTERWARDS = {_MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB}

_OWN_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")  # a user who set these knows better


@contextmanager
def kept_buffers(enabled: bool = True) -> Iterator[None]:
    """Keep freed memory in the process while the body runs, and give it back afterwards.

    By default glibc returns large freed blocks to the kernel, so that each step of a model with
    large activations pays again for mapping and clearing its pages. The peak of resident memory
    rises by what is kept. Does nothing outside glibc, and nothing where the environment sets the
    heap (MALLOC_..., GLIBC_TUNABLES).

    Args:
        enabled: False leaves the heap alone.
    """
    libc = _glibc() if enabled else None
    if libc is None:
        yield
        return
    if any(libc.mallopt(_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS):
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_AT_THE_TOP)
    try:
        yield
    finally:
        for parameter, value in _AFTERWARDS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or any(k.startswith(_OWN_SETTINGS) for k in os.environ):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None

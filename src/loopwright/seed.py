"""Seeds and random states: derived seeds, and draws that leave the caller's generators alone."""

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from loopwright.processes import process_index


def set_seed(seed: int, device_specific: bool = False) -> None:
    """Seed the global generators of `random`, numpy and torch (every device).

    This is the one function of the package that changes global random state, because the caller
    asks for it. A `Trainer` made with `seed=None` takes its seed from here through torch.

    Args:
        seed: Any integer from 0 to 2**64 - 1.
        device_specific: Add the rank of the process, so that each process draws differently.
    """
    seed = (seed + (process_index() if device_specific else 0)) % 2**64
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derive_seed(seed: int, *path: int) -> int:
    """Return a 63-bit seed that is a pure function of `seed` and the integers of `path`.

    Uses BLAKE2b, so that neighbouring inputs give unrelated seeds on every platform.
    """
    words = struct.pack(f"<{1 + len(path)}Q", *(word % 2**64 for word in (seed, *path)))
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") >> 1


def random_states() -> dict[str, Any]:
    """Return the states of the global generators: `random`, numpy, torch, and CUDA when in use."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Put the global generators back into `states`, as `random_states` returned them."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Leave the global generators as they were, whatever the body draws."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)


@contextmanager
def fixed_draws(seed: int) -> Iterator[None]:
    """Make what the body draws from the global CPU generators a function of `seed` alone.

    The generators of `random`, numpy and torch are saved, seeded and restored.
    """
    before = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    _set_aside.append(before)
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        restore_random_states(before)
        _set_aside[:] = [each for each in _set_aside if each is not before]


_set_aside: list[dict[str, Any]] = []  # states that `fixed_draws` has yet to put back


def restore_after_interruption() -> None:
    """Put back what `fixed_draws` set aside, where an exception of a signal cut it short.

    Such an exception can come between any two instructions, those that put back included.
    """
    if _set_aside:
        restore_random_states(_set_aside[0])
        _set_aside.clear()

"""The processes of a run: who am I, and functions that run on one process only.

One process trains today; the names are the documented ones and are right for one process.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from loopwright.errors import NotSupportedError

P = ParamSpec("P")
R = TypeVar("R")


def process_index() -> int:
    """Return the rank of this process among all processes of the run."""
    return int(os.environ.get("RANK", "0"))


def local_process_index() -> int:
    """Return the rank of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def num_processes() -> int:
    """Return how many processes take part in the run, as torchrun announces it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_several_processes() -> None:
    """Raise `NotSupportedError` when a launcher started more than one process."""
    if num_processes() > 1:
        raise NotSupportedError(
            f"This run was started as {num_processes()} processes (WORLD_SIZE), and loopwright "
            "trains with one process in this version. Start it without torchrun, or with "
            "--nproc-per-node=1."
        )


def local_process_zero_only(func: Callable[P, R]) -> Callable[P, R | None]:
    """Make `func` run on the first process of each machine; elsewhere it returns None."""

    @wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
        refuse_several_processes()
        return func(*args, **kwargs) if local_process_index() == 0 else None

    return wrapper


def local_process_zero_first(func: Callable[P, R]) -> Callable[P, R]:
    """Make `func` run on the first process of each machine before it runs on the others."""

    @wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_several_processes()
        return func(*args, **kwargs)

    return wrapper


def world_process_zero_only(func: Callable[P, R]) -> Callable[P, R | None]:
    """Make `func` run on the first process of the run; elsewhere it returns None."""

    @wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
        refuse_several_processes()
        return func(*args, **kwargs) if process_index() == 0 else None

    return wrapper

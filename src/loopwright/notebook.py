"""Starting training from a notebook."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from loopwright.errors import NotSupportedError

R = TypeVar("R")


def notebook_launcher(
    function: Callable[..., R], args: Sequence[object] = (), num_processes: int | None = None
) -> R:
    """Call a training function from a notebook, in this process, and return its result.

    Args:
        function: The function to run.
        args: Its positional arguments.
        num_processes: Has to be None or 1 in this version.

    Raises:
        NotSupportedError: Several processes are asked for.
    """
    if num_processes not in (None, 1):
        raise NotSupportedError(
            f"num_processes is {num_processes}, and loopwright trains with one process in this "
            "version. Leave it out."
        )
    return function(*args)

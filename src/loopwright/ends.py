"""The ends of a run from outside: signals that ask it to save and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import FrameType
from typing import Any

from loopwright.seed import restore_after_interruption

_TAKES_OVER = "torch.multiprocessing.reductions"
_ASKING = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT")


class StopRequested(BaseException):
    """Leaves what can be left at once (waiting for data) when a signal asks for the end.

    It never leaves the trainer, which saves and raises what its documentation says.
    """


def ignore_requests() -> None:
    """Ignore the signals in a process that makes data, which its parent stops when it stops.

    Job managers and terminals signal every process of a job at once.
    """
    for name in _ASKING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@contextmanager
def undisturbed_by_workers() -> Iterator[None]:
    """Let the death of a worker raise nothing in the body, which notes how a run ended.

    torch raises it from a handler of SIGCHLD, wherever the main thread stands.
    """
    is_main = threading.current_thread() is threading.main_thread()
    number = getattr(signal, "SIGCHLD", None) if is_main else None
    before = None if number is None else signal.getsignal(number)
    if number is None or before is None:
        yield
        return
    signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


def explain_lost_worker(error: BaseException) -> None:
    """Add what to do to the error that torch raises when a worker died.

    It is raised where torch looks for workers, or where it takes over a tensor of one that is gone.
    """
    is_told = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    names = {frame.f_globals.get("__name__") for frame in frames}
    was_taking = isinstance(error, (OSError, EOFError)) and _TAKES_OVER in names
    if is_told or was_taking:
        error.add_note(
            "A process that makes data ended, most often because the system was out of memory and "
            "killed it: lower num_workers or prefetch_factor, or what a sample takes. A run with a "
            "folder goes on from its newest checkpoint with resume='latest'."
        )


class StopRequests:
    """Listens for SIGTERM, SIGHUP, SIGUSR1 and SIGINT while `listening`.

    A signal that the process ignores (SIGHUP under nohup) stays ignored. A second SIGINT ends at
    once, with KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that asks the run to stop; None while none came."""
        self._leaves_at_once = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals, in the main thread alone, and put earlier handlers back."""
        self.signal = None
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in _ASKING if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        ours = [n for n in numbers if before[n] not in (signal.SIG_IGN, None)]
        try:
            for number in ours:
                signal.signal(number, self._handle)
            yield
        finally:
            for number in ours:
                signal.signal(number, before[number])

    def next(self, batches: Iterator[Any], end: Any) -> Any:
        """Return the next batch, or `end` when there are no more.

        Raises:
            StopRequested: A signal came, before or while the batch was made.
        """
        try:
            self._leaves_at_once = True
            if self.signal is not None:
                raise StopRequested
            return next(batches, end)
        except StopRequested:
            restore_after_interruption()
            raise
        finally:
            self._leaves_at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        came = signal.Signals(number)
        if came is signal.SIGINT and self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = came
        if self._leaves_at_once:
            self._leaves_at_once = False
            raise StopRequested

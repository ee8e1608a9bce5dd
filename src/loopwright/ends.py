"""The ends of a run from outside: signals that ask it to save and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASKING = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT")


class StopRequested(BaseException):
    """Leaves what can be left at once (waiting for data) when a signal asks for the end.

    It never leaves the trainer, which saves and raises what its documentation says.
    """


class StopRequests:
    """Listens for SIGTERM, SIGHUP, SIGUSR1 and SIGINT while `listening`.

    A second SIGINT ends at once, with KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that asks the run to stop; None while none came."""
        self._leaves_at_once = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals, in the main thread alone, and put earlier handlers back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.signal = None
        names = [name for name in _ASKING if hasattr(signal, name)]
        before = {name: signal.signal(getattr(signal, name), self._handle) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    def next(self, batches: Iterator[Any], end: Any, *, leaves_at_once: bool) -> Any:
        """Return the next batch, or `end`.

        Args:
            batches: The iterator.
            end: What to return when it has no more.
            leaves_at_once: Whether a signal may raise `StopRequested` while it makes the batch.
        """
        if not leaves_at_once:
            return next(batches, end)
        self._leaves_at_once = True
        try:
            if self.signal is not None:
                raise StopRequested
            return next(batches, end)
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

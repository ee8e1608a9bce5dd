"""How a command ends: one message, an exit code, and an event where those are written."""

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from loopwright.errors import (
    ArtifactError,
    ConfigurationError,
    MissingExtraError,
    RunFolderError,
    RunInterrupted,
    SealedTestSetError,
    StorageError,
)

if TYPE_CHECKING:
    from loopwright.json_events import JsonEvents

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130

_USAGE_ERRORS = (
    ArtifactError,
    ConfigurationError,
    MissingExtraError,
    RunFolderError,
    SealedTestSetError,
    StorageError,
)
_SIGNALS = ("SIGTERM", "SIGHUP", "SIGUSR1")


class _Signalled(KeyboardInterrupt):
    """Leaves the program when a signal comes outside of training, where nothing is to be saved."""


@contextmanager
def exit_codes(*, debug: bool, events: "JsonEvents | None" = None) -> Iterator[None]:
    """Turn what goes wrong into one message, an exit code, and an event where those are written."""
    import typer

    code = 0
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        code = _tell_error(error, debug=debug)
        if events is not None:
            events.write_error(error, code)
    if code:
        raise typer.Exit(code)


def _tell_error(error: BaseException, *, debug: bool) -> int:
    """Say what ended the command, and return its exit code."""
    if isinstance(error, _Signalled):
        _tell_end(f"{error} ended the program.", error)
        return EXIT_RESUMABLE
    if isinstance(error, RunInterrupted):
        _tell_end(f"{error.signal} ended the run. It saved {error.checkpoint}.", error)
        return EXIT_RESUMABLE
    if isinstance(error, KeyboardInterrupt):
        _tell_end(f"Interrupted: {error}.".replace(": .", "."), error)
        return EXIT_INTERRUPTED
    if isinstance(error, _USAGE_ERRORS):
        tell(traceback.format_exc() if debug else str(error))
        return EXIT_USAGE
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    message = f"The run failed: {type(error).__name__}: {error}{notes}\n(--debug shows where)"
    tell(traceback.format_exc() if debug else message)
    return EXIT_FAILED


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Turn signals into an exit with a code; while it trains, the trainer answers them itself.

    A signal that the program was started to ignore, as by nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {n: handler for n, handler in before.items() if handler == signal.SIG_DFL}
    for number in heard:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise _Signalled(signal.Signals(number).name)


def _tell_end(message: str, error: BaseException) -> None:
    tell("\n".join([message, *getattr(error, "__notes__", ())]))


def tell(message: str) -> None:
    """Write a message to standard error, secrets masked."""
    from loopwright.plain_values import mask_secrets

    sys.stderr.write(f"{mask_secrets(message)}\n")

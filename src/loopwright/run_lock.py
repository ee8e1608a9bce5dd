"""The lock on a run's folder, so that one process at a time trains in it."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loopwright.errors import RunFolderError
from loopwright.run_folder import is_empty, make_folder
from loopwright.run_record import LOCK_FILE, is_run_folder

if sys.platform != "win32":
    import fcntl

_held: dict[Path, tuple[int, int | None]] = {}  # the thread and the file, which forks let go


@contextmanager
def locked(folder: str | os.PathLike[str], tell: Callable[[str], None] = print) -> Iterator[None]:
    """Hold a run's folder for this thread; it is made if need be.

    The system releases the lock when the process ends, however it ends. Where the file system has
    no locks, that is told, and nothing is held. The thread that holds a folder may ask again.

    Args:
        folder: The folder of a run, or an empty or new one; any other is left as it is.
        tell: Called with a line for the user.

    Raises:
        RunFolderError: Another process or thread holds the folder, or it cannot be written.
    """
    path, thread = Path(folder), threading.get_ident()
    make_folder(path)
    place = path.resolve()
    is_held = place in _held and _held[place][0] == thread
    if is_held or not (is_run_folder(path) or is_empty(path)):
        yield
        return
    file = _lock(path, tell)
    _held[place] = thread, file
    try:
        yield
    finally:
        del _held[place]
        if file is not None:
            os.ftruncate(file, 0)
            os.close(file)


def _lock(path: Path, tell: Callable[[str], None]) -> int | None:
    """Return the locked file, which notes who holds it, or None where there are no locks."""
    if sys.platform == "win32":
        tell(f"{path} cannot be locked on Windows: let no second process use it.")
        return None
    _let_go_in_forks()
    try:
        file = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunFolderError(f"cannot write {path / LOCK_FILE}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RunFolderError(
            f"{path} is in use by {_holder(path)}. Wait until that run ends, or stop it; or name "
            "another folder."
        ) from None
    except OSError as error:
        os.close(file)
        tell(
            f"The file system of {path} has no locks ({error.strerror}): let no second process "
            "use the folder."
        )
        return None
    about = {"pid": os.getpid(), "host": os.uname().nodename, "since": time.time()}
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(about).encode(), 0)
    return file


def _holder(path: Path) -> str:
    try:
        about = json.loads((path / LOCK_FILE).read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["since"]))
        return f"process {about['pid']} on {about['host']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not written its name yet, or no longer


_lets_go = False


def _let_go_in_forks() -> None:
    """Close locked files in forked processes, such as workers, which may outlive this one."""
    global _lets_go
    if not _lets_go:
        os.register_at_fork(after_in_child=_let_go)
        _lets_go = True


def _let_go() -> None:
    for _, file in _held.values():
        if file is not None:
            os.close(file)
    _held.clear()

"""A copy of a folder at a URL, kept in the background while the folder changes."""

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loopwright.checkpoint import read_manifest
from loopwright.errors import CheckpointError, StorageError
from loopwright.plain_values import MASK
from loopwright.run_record import STATUS_FILE
from loopwright.storage.backoff import Backoff, is_final
from loopwright.storage.digests import Digest, digest_of
from loopwright.storage.fetching import copy_is_further, fetch_into, patiently
from loopwright.storage.index import INDEX_FILE, WHOLE, Index, read_index
from loopwright.storage.local import (
    Signature,
    Unit,
    pin,
    read_notes,
    signature_of,
    units_in,
    unpin,
    write_notes,
)
from loopwright.storage.remote import open_storage
from loopwright.storage.urls import cache_folder, mask_url

Tell = Callable[[str], None]

_FIRST_CONTACT_SECONDS = 10.0
_STOPPING_SECONDS = 15.0


class _Refused(StorageError):
    """Tells that a URL belongs to something else, which no other attempt mends."""


class Mirror(os.PathLike[str]):
    """Keeps a copy of a folder at a URL; a `Trainer` takes one as its `run_dir`.

    One thread sends what changed, in order, and tries again for as long as the server cannot be
    reached. Nothing waits for it, and nothing is held in memory: what is still to be sent is what
    differs in the folder, so that a later process goes on where this one was killed. Folders with
    a manifest, such as checkpoints, are sent data first and manifest last; they leave the copy
    when they left the folder and another one has arrived. Other files stay in the copy.

    Args:
        url: Where the copy is, such as `s3://bucket/run`; a folder of its own.
        folder: The local folder; by default one in the user's cache that belongs to the URL.
        options: Further arguments of the file system of fsspec; never stored.
        backoff: How long to wait between attempts.
        wait_seconds: How long the end of a run waits for the copy; 15 at most where it is stopped.
        stall_seconds: A transfer in which nothing moves for so long is given up and repeated.
    """

    def __init__(
        self,
        url: str,
        folder: str | os.PathLike[str] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        backoff: Backoff | None = None,
        wait_seconds: float = 60.0,
        stall_seconds: float = 120.0,
    ) -> None:
        self.url = mask_url(url).rstrip("/")
        """The URL, as it may be shown."""
        self.folder = Path(folder) if folder is not None else cache_folder(url)
        self.wait_seconds = wait_seconds
        self._storage = open_storage(url, options, stall_seconds=stall_seconds)
        self._backoff = backoff or Backoff()
        self._draws = random.Random()
        self._index: Index | None = None
        self._written = b""
        self._adopted: str | None = None
        self._sent: dict[str, Signature] = {}
        self._refusal: BaseException | None = None
        self._trouble: str | None = None
        self._lines: list[str] = []
        self._state = threading.Condition()
        self._asked = self._done = 0
        self._thread: threading.Thread | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> "Mirror | None":
        """Return the copy that a folder has, as notes in it say; None where it has none.

        Raises:
            StorageError: The URL had a secret in it, which the notes have not.
        """
        notes = read_notes(Path(folder))
        if notes is not None and MASK in notes.url:
            raise StorageError(
                f"{folder} has a copy at {notes.url}, whose secret was not stored. Give the URL."
            )
        return None if notes is None or not notes.url else cls(notes.url, folder)

    # ------------------------------------------------------------------ for who changes the folder

    def begin(self, tell: Tell) -> None:
        """Begin to keep the copy; waits seconds for the first answer of the server, at most.

        Raises:
            StorageError: The server answers that this cannot be, or holds the copy of another run.
        """
        self.changed()
        with self._state:
            self._state.wait_for(
                lambda: self._index or self._refusal or self._trouble, _FIRST_CONTACT_SECONDS
            )
            if self._refusal is not None:
                self._lines = []
                raise self._refused()
            if self._index is None and self._trouble is None:
                self._lines.append(f"{self.url} does not answer yet; the run does not wait for it.")
        self.report(tell)

    def changed(self) -> None:
        """Have the changes in the folder sent; returns at once."""
        with self._state:
            self._asked += 1
            if self._thread is None and self._refusal is None:
                self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
                self._thread.start()

    def report(self, tell: Tell) -> None:
        """Tell what happened since the last report."""
        with self._state:
            lines, self._lines = self._lines, []
        for line in lines:
            tell(line)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the copy is complete; return whether it is."""
        with self._state:
            self._state.wait_for(lambda: self._thread is None, seconds)
            return self._thread is None and self._refusal is None

    def finish(self, tell: Tell, *, is_stopping: bool = False, waited: float = 0.0) -> None:
        """Wait for the copy, as long as was said; tell what is left to do.

        Args:
            tell: Called with a line for the user.
            is_stopping: Whether a signal or an error ends the process, so that the wait is short.
            waited: Seconds of that time that went to other copies.
        """
        self.changed()
        longest = min(self.wait_seconds, _STOPPING_SECONDS) if is_stopping else self.wait_seconds
        is_complete = self.wait(max(0.0, longest - waited))
        self.report(tell)
        if not is_complete and self._refusal is None:
            tell(self._left())

    def push(self, tell: Tell = print, *, seconds: float = 300.0) -> None:
        """Send what is left, and return when the copy is complete.

        Raises:
            StorageError: It is not, after this time, or cannot be.
        """
        end = time.monotonic() + seconds
        self.begin(tell)
        while not self.wait(min(1.0, max(0.0, end - time.monotonic()))):
            self.report(tell)
            if self._refusal is not None:
                raise self._refused()
            if time.monotonic() >= end:
                raise StorageError(self._left())
        self.report(tell)

    def pull(self, tell: Tell = print) -> None:
        """Bring the folder to where the copy is, if that is further, as on a new machine.

        Raises:
            StorageError: The copy cannot be reached and the folder is empty; or it is another's.
        """
        try:
            index = patiently(self._storage, lambda: read_index(self._storage))
        except StorageError as error:
            if units_in(self.folder):
                tell(f"Going on with {self.folder} alone: {error}")
                return
            raise StorageError(
                f"Whether there is a run to go on with is not known: {error}"
            ) from None
        if index is None:
            return
        own = self._own_id()
        if own is None and not any(unit.is_whole_folder for unit in units_in(self.folder)):
            own = self._adopted = index.id
        if own != index.id:
            raise self._not_ours()
        if copy_is_further(index, self.folder):
            tell(f"Fetching {self.url} to {self.folder}")
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fetch_into(self._storage, index, self.folder, tell)
            write_notes(self.folder, self.url, index.id)

    def _left(self) -> str:
        units = units_in(self.folder)
        left = [unit for unit in units if self._sent.get(unit.name) != unit.signature]
        size = sum(_size(self.folder / name) for unit in left for name in unit.files)
        reason = f" ({self._trouble})" if self._trouble else ""
        return (
            f"{len(left)} of {len(units)} files and checkpoints in {self.folder}, {size:,} bytes, "
            f"are not at {self.url} yet{reason}. Nothing is lost here; copy them with: "
            f"loopwright push {self.folder}"
        )

    def _refused(self) -> BaseException:
        assert self._refusal is not None
        if isinstance(self._refusal, StorageError):
            return self._refusal
        return StorageError(f"{self.url} cannot be used: {self._storage.describe(self._refusal)}")

    # ------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        num_failures = 0
        while True:
            with self._state:
                if self._asked == self._done:
                    self._thread = None
                    self._state.notify_all()
                    return
                asked = self._asked
            try:
                self._send_changes()
            except Exception as error:  # of any kind: file systems raise their own
                if self._gives_up(error):
                    return
                num_failures += 1
                time.sleep(self._backoff.seconds(num_failures, self._draws))
                continue
            with self._state:
                self._done, num_failures = asked, 0
                if self._trouble is not None:
                    self._lines.append(f"{self.url} is complete again.")
                self._trouble = None
                self._state.notify_all()

    def _gives_up(self, error: Exception) -> bool:
        """Note an error; at the first contact some mean that there is nothing to wait for."""
        reason = self._storage.describe(error)
        with self._state:
            if self._index is None and (isinstance(error, _Refused) or is_final(error)):
                self._refusal, self._trouble, self._thread = error, reason, None
                self._lines.append(f"{self.url} cannot be used, nothing is copied: {reason}")
            elif self._trouble is None:
                self._lines.append(
                    f"{self.url} cannot be written, the run goes on and the copy is caught up "
                    f"later: {reason}"
                )
            self._trouble = reason
            self._state.notify_all()
            return self._refusal is not None

    def _send_changes(self) -> None:
        index = self._index or self._make_contact()
        units, held = units_in(self.folder), None
        for status in [unit for unit in units if unit.name == STATUS_FILE]:
            # Held now and sent last: a run that is finished has its last checkpoint by then.
            held = pin(self.folder, status, "status")
            units = [*(u for u in units_in(self.folder) if u.name != STATUS_FILE), status]
        for unit in units:
            if self._sent.get(unit.name) != unit.signature:
                self._send(unit, index, held if unit.name == STATUS_FILE else None)
                unpin(self.folder)
        unpin(self.folder, "status")
        self._remove_old(index)
        if self._written != (content := index.encode()):
            self._write_index(content)

    def _make_contact(self) -> Index:
        """Read what is there, or begin a copy; refuse the folder of something else."""
        index, own = read_index(self._storage), self._own_id()
        if index is None:
            if self._storage.list():
                raise _Refused(
                    f"{self.url} is not empty and holds no copy of a run. Name another folder."
                )
            own = own or write_notes(self.folder, self.url).id
            index = Index(own)
            self._write_index(index.encode())
        if index.id != own:
            raise self._not_ours()
        write_notes(self.folder, self.url, own)
        with self._state:
            self._index = index
            self._state.notify_all()
        return index

    def _own_id(self) -> str | None:
        notes = read_notes(self.folder)
        return self._adopted if notes is None else notes.id

    def _not_ours(self) -> _Refused:
        return _Refused(
            f"{self.url} holds the copy of another run than {self.folder}. Name another URL; or go "
            "on with that run, by resume='latest' or --resume."
        )

    def _write_index(self, content: bytes) -> None:
        self._storage.write(INDEX_FILE, content)
        self._written = content

    def _send(self, unit: Unit, index: Index, held: Path | None) -> None:
        held = held or pin(self.folder, unit)
        if held is None:
            return  # removed meanwhile
        digests = {name: digest_of(held / name) for name in unit.files}
        if unit.is_whole_folder and (damage := _damage_in(held / unit.name, digests)):
            if signature_of(self.folder / unit.files[-1]) == unit.signature:
                self._sent[unit.name] = unit.signature
                with self._state:
                    self._lines.append(f"{self.folder / unit.name} is not copied: {damage}")
            return
        key = unit.files[-1]
        if not (index.is_settled(key, digests[key]) and self._storage.exists(key)):
            self._put(unit, held, digests, index)
        self._sent[unit.name] = unit.signature

    def _put(self, unit: Unit, held: Path, digests: Mapping[str, Digest], index: Index) -> None:
        """Send the files of a unit, each version listed before it can be there."""
        key = unit.files[-1]
        replaces = unit.is_whole_folder and key in index.files
        index.expect(key, digests[key])
        if replaces:
            index.expect(key, None)
        self._write_index(index.encode())
        if replaces and not self._storage.has(key, digests[key]):
            self._storage.delete(key)
        for name in unit.files:
            if not self._storage.has(name, digests[name]):
                self._storage.put(held / name, name, digests[name])
        index.settle(key, digests[key])

    def _remove_old(self, index: Index) -> None:
        """Remove whole folders that are no longer here, where another one of theirs has arrived."""
        here = {unit.name for unit in units_in(self.folder) if unit.is_whole_folder}
        arrived = {name.rpartition("/")[0] for name in here if name in self._sent}
        for name in index.whole_folders():
            if name in here or name.rpartition("/")[0] not in arrived:
                continue
            manifest = f"{name}/{WHOLE}"
            index.expect(manifest, None)
            self._write_index(index.encode())
            self._storage.delete(manifest)
            self._storage.delete(*self._storage.list(name))
            index.settle(manifest, None)


def _damage_in(folder: Path, digests: Mapping[str, Digest]) -> str | None:
    """Return what is wrong with a folder, by its manifest; None where it is whole."""
    found = {name.rpartition("/")[2]: digest for name, digest in digests.items()}
    try:
        listed = read_manifest(folder)["files"]
        wrong = [n for n, about in listed.items() if found[n].sha256 != about["sha256"]]
    except (CheckpointError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(sorted(wrong))} is damaged (checksum)" if wrong else None


def _size(path: Path) -> int:
    signature = signature_of(path)
    return signature[1] if signature else 0

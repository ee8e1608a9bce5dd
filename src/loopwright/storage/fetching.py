"""Bringing a copy back from a URL: whole, verified, and continued where it was cut off."""

import os
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from loopwright.checkpoint import read_manifest
from loopwright.errors import CheckpointError, StorageError
from loopwright.run_record import STATUS_FILE
from loopwright.storage.backoff import Backoff, is_final
from loopwright.storage.digests import Digest, digest_of
from loopwright.storage.index import INDEX_FILE, WHOLE, Index, check_name, read_index
from loopwright.storage.local import NOTES, read_notes, units_in, write_notes
from loopwright.storage.remote import Storage, open_storage
from loopwright.storage.urls import cache_folder

_ATTEMPTS = 5
_NUMBER = re.compile(r"(\d+)$")

T = TypeVar("T")


def fetch(
    url: str,
    folder: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> Path:
    """Fetch the copy of a run; what is in the folder already, of the same run, is not sent again.

    Args:
        url: Where the copy is.
        folder: A folder that is empty or new, or that an earlier call began to fill.
        options: Further arguments of the file system of fsspec.
        tell: Called with a line for the user.

    Returns:
        The folder.

    Raises:
        StorageError: There is no copy; or a file of it is missing or damaged, which is said once
            all others are there. Checkpoints are there whole or not at all.
    """
    storage, folder = open_storage(url, options), Path(folder)
    index = patiently(storage, lambda: read_index(storage))
    if index is None:
        raise StorageError(f"{storage.url} holds no copy of a run: it has no {INDEX_FILE}.")
    notes = read_notes(folder)
    if (notes is None and folder.is_dir() and any(folder.iterdir())) or (
        notes is not None and notes.id != index.id
    ):
        raise StorageError(f"{folder} holds something else. Name a folder that is empty or new.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if notes is None:
        write_notes(folder, "", index.id)
    if problems := fetch_into(storage, index, folder, tell):
        raise StorageError(f"{len(problems)} files could not be fetched:\n" + "\n".join(problems))
    return folder


def fetch_checkpoint(url: str, *, options: Mapping[str, Any] | None = None) -> Path:
    """Fetch a checkpoint into the user's cache, and return its folder.

    Args:
        url: Of the checkpoint, or of the copy of a run, whose newest checkpoint is taken.
        options: Further arguments of the file system of fsspec.

    Raises:
        StorageError: There is none, or it is damaged.
    """
    storage = open_storage(url, options)
    if not patiently(storage, lambda: storage.exists(WHOLE)):
        index = patiently(storage, lambda: read_index(storage))
        found = [] if index is None else _by_age(index.whole_folders())
        there = [n for n in found if patiently(storage, lambda n=n: storage.exists(f"{n}/{WHOLE}"))]  # type: ignore[misc]
        if not there:
            raise StorageError(f"{storage.url} holds no checkpoint.")
        storage = storage.below(there[-1])
    place = cache_folder(storage.url)
    _fetch_whole(storage, place, place.with_name(f".{place.name}.part"))
    return place


def copy_is_further(index: Index, folder: Path) -> bool:
    """Whether the newest checkpoint of a copy is newer than what a folder has."""
    units = units_in(folder)
    here = _by_age([unit.name for unit in units if unit.is_whole_folder])
    there = _by_age(index.whole_folders())
    if not there:
        return STATUS_FILE in index.files and not (folder / STATUS_FILE).exists()
    return not here or _number(there[-1]) > _number(here[-1])


def fetch_into(
    storage: Storage, index: Index, folder: Path, tell: Callable[[str], None]
) -> list[str]:
    """Fetch what a list names, the status last; return what is missing or damaged, and tell it."""
    problems = []
    for name in sorted(index.files, key=lambda name: (name == STATUS_FILE, name)):
        try:
            patiently(storage, lambda name=name: _fetch_one(storage, index, name, folder))  # type: ignore[misc]
        except FileNotFoundError:
            if None in index.files[name]:
                continue  # it was still to come when the run ended, or on its way out
            problems.append(f"{storage.url}/{name} is missing.")
        except (StorageError, CheckpointError) as error:
            problems.append(str(error))
    shutil.rmtree(folder / NOTES / "receiving", ignore_errors=True)
    for problem in problems:
        tell(problem)
    return problems


def _fetch_one(storage: Storage, index: Index, name: str, folder: Path) -> None:
    expected = [version for version in index.files[name] if version is not None]
    parent = name.rpartition("/")[0]
    if parent and name.endswith(f"/{WHOLE}"):
        _fetch_whole(storage.below(parent), folder / parent, folder / NOTES / "receiving" / parent)
    elif not _is_one_of(folder / name, expected):
        storage.get(name, folder / name, expected)


def _is_one_of(path: Path, expected: list[Digest]) -> bool:
    return path.is_file() and digest_of(path) in expected


def _fetch_whole(storage: Storage, place: Path, aside: Path) -> None:
    """Fetch a folder with a manifest, which appears whole or not at all."""
    storage.get(WHOLE, aside / WHOLE)
    manifest = (aside / WHOLE).read_bytes()
    if (place / WHOLE).is_file() and (place / WHOLE).read_bytes() == manifest:
        shutil.rmtree(aside, ignore_errors=True)
        return
    for name, about in read_manifest(aside)["files"].items():
        check_name(name, f"{storage.url}/{WHOLE}")
        try:
            expected = Digest(int(about["bytes"]), str(about["sha256"]))
        except (TypeError, KeyError, ValueError):
            raise StorageError(f"{storage.url}/{WHOLE} has no checksum of {name}.") from None
        if not _is_one_of(aside / name, [expected]):
            storage.get(name, aside / name, [expected])
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(aside, place)


def patiently(storage: Storage, call: Callable[[], T], backoff: Backoff | None = None) -> T:
    """Return what a call returns, after five attempts at most.

    Raises:
        StorageError: No attempt succeeded.
        FileNotFoundError: It asks for what is not there.
    """
    draws, backoff = random.Random(), backoff or Backoff(most_seconds=10)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except (StorageError, CheckpointError, FileNotFoundError):
            raise
        except Exception as error:
            if attempt == _ATTEMPTS or is_final(error):
                reason = storage.describe(error)
                raise StorageError(f"{storage.url} cannot be read: {reason}") from None
            time.sleep(backoff.seconds(attempt, draws))
    raise AssertionError("the last attempt returns or raises")


def _by_age(names: list[str]) -> list[str]:
    return sorted(names, key=_number)


def _number(name: str) -> int:
    """Return the number that a checkpoint's name ends with: its step."""
    found = _NUMBER.search(name)
    return int(found[1]) if found else -1

"""What there is to send in a local folder, and a place in it for what is being sent."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loopwright.storage.index import WHOLE

NOTES = ".mirror"
"""A hidden folder in the local one: which copy it has, and what is being sent."""

_LARGEST_COPIED = 2**24  # bytes

Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Unit:
    """Is what is sent together: a file, or a folder with a manifest."""

    name: str
    files: tuple[str, ...]
    """Names below the local folder, a manifest last."""
    signature: Signature
    """Changes when the content does."""

    @property
    def is_whole_folder(self) -> bool:
        """Whether this is a folder with a manifest."""
        return self.files != (self.name,)


def units_in(folder: Path) -> list[Unit]:
    """Return what there is to send: files, then whole folders, each by age.

    Hidden files, and links, are left out.
    """
    found = list(_units_below(folder, ""))
    return sorted(found, key=lambda unit: (unit.is_whole_folder, unit.signature[2]))


def _units_below(folder: Path, prefix: str) -> Iterator[Unit]:
    try:
        names = sorted(name for name in os.listdir(folder / prefix) if not name.startswith("."))
    except OSError:  # removed meanwhile
        return
    files = tuple(f"{prefix}{n}" for n in names if _is_file(folder / prefix / n))
    if prefix and WHOLE in names:
        manifest = f"{prefix}{WHOLE}"
        data = tuple(name for name in files if name != manifest)
        if signature := signature_of(folder / manifest):
            yield Unit(prefix.rstrip("/"), (*data, manifest), signature)
        return
    for name in files:
        if signature := signature_of(folder / name):
            yield Unit(name, (name,), signature)
    for name in names:
        path = folder / prefix / name
        if path.is_dir() and not path.is_symlink():
            yield from _units_below(folder, f"{prefix}{name}/")


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def signature_of(path: Path) -> Signature | None:
    """Return what changes when a file does; None where it is not there."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def pin(folder: Path, unit: Unit, place: str = "sending") -> Path | None:
    """Hold the content of a unit as it is now, and return the folder with it.

    Files that are written aside and renamed are linked, which takes no space; a small file, which
    may be appended to, is copied. None means that it was removed meanwhile.
    """
    held = folder / NOTES / place
    shutil.rmtree(held, ignore_errors=True)
    try:
        for name in unit.files:
            path = held / name
            path.parent.mkdir(parents=True, exist_ok=True)
            copies = not unit.is_whole_folder and unit.signature[1] <= _LARGEST_COPIED
            _copy_or_link(folder / name, path, copies=copies)
    except FileNotFoundError:
        return None
    return held


def unpin(folder: Path, place: str = "sending") -> None:
    """Let go of what was held."""
    shutil.rmtree(folder / NOTES / place, ignore_errors=True)


def _copy_or_link(source: Path, target: Path, *, copies: bool) -> None:
    copy: Callable[..., object] = shutil.copyfile
    if not copies:
        try:
            os.link(source, target)
            return
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            pass
    copy(source, target)


@dataclass(frozen=True)
class Notes:
    """Say which copy a local folder has."""

    id: str
    url: str
    """Masked where it held secrets."""


def read_notes(folder: Path) -> Notes | None:
    """Return the notes in a folder, or None where it has no copy."""
    try:
        values = json.loads((folder / NOTES / "copy.json").read_text(encoding="utf-8"))
        return Notes(str(values["id"]), str(values["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_notes(folder: Path, url: str, id: str | None = None) -> Notes:
    """Note which copy a folder has; without an id it gets a new one."""
    notes = Notes(id or uuid.uuid4().hex, url)
    place = folder / NOTES
    place.mkdir(mode=0o700, exist_ok=True)
    aside = place / f".copy.{os.getpid()}"
    aside.write_text(json.dumps({"id": notes.id, "url": notes.url}), encoding="utf-8")
    os.replace(aside, place / "copy.json")
    return notes

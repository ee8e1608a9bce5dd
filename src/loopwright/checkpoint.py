"""What is saved of a run: state folders of JSON and safetensors.

Nothing here is ever loaded by executing it, and nothing is half-written: files and folders are
written aside, flushed to disk and renamed.
"""

import base64
import glob
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from loopwright.errors import CheckpointError

_FORMAT = 1
_TREE, _MANIFEST = "state.json", "manifest.json"
# A tree becomes objects of Python, which take up to twenty times the bytes that tell of them. With
# these bounds they stay below 64 MB, whoever wrote the file.
_LARGEST_JSON = 6 * 2**20
_MOST_ENTRIES = 250_000
_MOST_NUMBERS = 500_000
_LONG_LIST = 1000
_LARGEST_MANIFEST = 2**20
_PLAIN = (bool, int, float, str, type(None))


def write_aside(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, flush it to disk, and put it in place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        write(aside)
        _flush(aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def write_text_aside(path: Path, text: str) -> None:
    """Put a text in place of a file as `write_aside` does: in UTF-8, its line ends as they are."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8", newline="")

    write_aside(path, write)


def _flush(path: Path) -> None:
    """Let a file or a folder reach the disk; Windows flushes no folders, and files for writers."""
    is_windows = os.name == "nt"
    if is_windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Snapshot:
    """The state of a moment, apart from what goes on changing: a tree, and copies of tensors."""

    tree: bytes
    """The tree as JSON, with references in place of tensors."""
    parts: dict[str, dict[str, torch.Tensor]]
    """Tensors on the CPU by name, for each file."""

    @property
    def num_bytes(self) -> int:
        """What the files will hold, but for their headers."""
        tensors = (tensor for part in self.parts.values() for tensor in part.values())
        return len(self.tree) + sum(tensor.nbytes for tensor in tensors)


class Buffers:
    """Memory that snapshots are copied into, kept from one to the next."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], torch.Tensor] = {}

    def copy(self, part: str, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a contiguous copy on the CPU, in the memory of the copy before if it fits."""
        kept = self._kept.get((part, name))
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._kept[part, name] = kept
        return kept.copy_(tensor.detach())


def take_snapshot(state: Mapping[str, Any], buffers: Buffers | None = None) -> Snapshot:
    """Return a snapshot of a tree of dicts, lists, tuples, numbers, strings, arrays and tensors.

    Args:
        state: The tree. The tensors below each key go into a file of its name.
        buffers: Memory of an earlier snapshot, which must not be in use any more.

    Raises:
        CheckpointError: The tree holds something else; the message names where.
    """
    encoder = _Encoder(buffers or Buffers())
    tree = {key: encoder.encode(value, _part_of(key), key) for key, value in state.items()}
    text = json.dumps(tree).encode()
    _check_tree(text, encoder.num_listed)
    return Snapshot(text, encoder.parts)


def _check_tree(tree: bytes, num_listed: int = 0) -> None:
    entries = sum(tree.count(mark) for mark in (b",", b":", b"[", b"{"))
    if len(tree) > _LARGEST_JSON or entries > _MOST_ENTRIES or num_listed > _MOST_NUMBERS:
        raise CheckpointError(
            f"The state has {len(tree):,} bytes of JSON, {entries:,} entries, and {num_listed:,} "
            f"numbers in long lists; expected {_LARGEST_JSON:,}, {_MOST_ENTRIES:,} and "
            f"{_MOST_NUMBERS:,} at most. Keep what is large as tensors or arrays."
        )


def read_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """Return the tree of a snapshot; its tensors are those of the snapshot.

    Raises:
        CheckpointError: It is no snapshot.
    """
    try:
        return _Decoder(snapshot.parts).read(snapshot.tree)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"The saved state cannot be read: {error}.") from None


def write_state(folder: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a tree, as `take_snapshot` takes it, to a folder.

    The folder appears whole or not at all; an earlier one of this name is replaced.
    """
    write_snapshot(folder, take_snapshot(state))


def write_snapshot(
    folder: str | os.PathLike[str], snapshot: Snapshot, about: Mapping[str, Any] | None = None
) -> None:
    """Write a snapshot to a folder, with a manifest of sizes and checksums.

    Args:
        folder: Where; it appears whole or not at all.
        snapshot: What.
        about: Plain values for the manifest, such as the step.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(mode=0o700)
        (aside / _TREE).write_bytes(snapshot.tree)
        for part, tensors in snapshot.parts.items():
            save_file(tensors, aside / f"{part}.safetensors")
        files = {path.name: _listed(path) for path in sorted(aside.iterdir())}
        manifest = {"format": _FORMAT, **(about or {}), "files": files}
        (aside / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in aside.iterdir():
            _flush(path)
        _flush(aside)
        _put_in_place(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _listed(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(aside: Path, folder: Path) -> None:
    replaced = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(folder, replaced)
    try:
        os.rename(aside, folder)
    except OSError:
        if replaced.exists():
            os.rename(replaced, folder)
        raise
    _flush(folder.parent)
    for earlier in _replaced(folder):
        shutil.rmtree(earlier, ignore_errors=True)


def _replaced(folder: Path) -> list[Path]:
    """Return what stood under the name of a folder, from replacements that were cut short too."""
    return list(folder.parent.glob(f".{glob.escape(folder.name)}.replaced-*"))


def _place_of(folder: str | os.PathLike[str]) -> Path:
    """Return where a state lies: aside, if the process was killed while it replaced the state."""
    folder = Path(folder)
    return folder if folder.exists() else next(iter(_replaced(folder)), folder)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of a state folder.

    Raises:
        CheckpointError: There is none, or it is of another format.
    """
    path = _place_of(folder) / _MANIFEST
    try:
        manifest = json.loads(_bounded(path, _LARGEST_MANIFEST))
        found, files = manifest["format"], dict(manifest["files"])
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} is no saved state: {path} cannot be read ({error})."
        ) from None
    if found != _FORMAT:
        raise CheckpointError(f"{folder} has format {found}; this version reads {_FORMAT}.")
    return {**manifest, "files": files}


def read_state(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a tree that `write_state` wrote; tensors are on the CPU.

    Every file is compared with its checksum before anything in it is used.

    Raises:
        CheckpointError: A file is missing or is not what was written; the message names it.
    """
    folder = _place_of(folder)
    files = read_manifest(folder)["files"]
    for name in (_TREE, *sorted(files)):
        _verify(folder, name, files.get(name))
    try:
        parts = {
            name.removesuffix(".safetensors"): load_file(folder / name)
            for name in files
            if name.endswith(".safetensors")
        }
        return _Decoder(parts).read(_bounded(folder / _TREE))
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is refused: {error}") from None
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}.") from None


def _bounded(path: Path, most: int = _LARGEST_JSON) -> bytes:
    size = _size(path)
    if size > most:
        raise CheckpointError(f"{path} has {size} bytes; expected {most} at most.")
    return path.read_bytes()


def _size(path: Path) -> int:
    """Return the size of a regular file; links, pipes and devices are refused."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise CheckpointError(f"{path} is no regular file, as every file of a checkpoint is.")
    return about.st_size


def _verify(folder: Path, name: str, listed: Any) -> None:
    path = folder / name
    if not isinstance(listed, dict) or Path(name).name != name or "\0" in name:
        raise CheckpointError(
            f"{folder / _MANIFEST} lists {name!r:.99}, which can be no file of its folder."
        )
    try:
        size = _size(path)
        if size == listed.get("bytes") and _digest(path) == listed.get("sha256"):
            return
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    raise CheckpointError(
        f"{path} is damaged: its {size} bytes are not the {listed.get('bytes')} that were written "
        "(checksum). Use another checkpoint."
    )


_PART = re.compile(r"[a-z][a-z_]*")


def _part_of(key: str) -> str:
    """Return the file for the tensors below a key: its name, where that can be a file's."""
    return key if _PART.fullmatch(key) else "other"


class _Encoder:
    def __init__(self, buffers: Buffers) -> None:
        self.parts: dict[str, dict[str, torch.Tensor]] = {}
        self.num_listed = 0
        """Numbers in long lists, which are kept as tensors."""
        self._buffers = buffers

    def encode(self, value: Any, part: str, where: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._put(value, part, where)}
        if isinstance(value, np.ndarray):
            return {"$array": self._put(torch.from_numpy(value), part, where)}
        if isinstance(value, bytes):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, Mapping):
            items = [(k, self.encode(v, part, f"{where}.{k}")) for k, v in value.items()]
            if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
                return dict(items)
            return {"$items": [[self.encode(key, part, where), item] for key, item in items]}
        if isinstance(value, (list, tuple)):
            if (numbers := _long_list_of_numbers(value)) is not None:
                self.num_listed += len(value)
                kept = {"$list": self._put(numbers, part, where)}
                return {"$tuple": kept} if isinstance(value, tuple) else kept
            listed = [self.encode(v, part, f"{where}.{i}") for i, v in enumerate(value)]
            return {"$tuple": listed} if isinstance(value, tuple) else listed
        raise CheckpointError(
            f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: it takes "
            "numbers, strings, arrays, tensors, and lists and dicts of them."
        )

    def _put(self, tensor: torch.Tensor, part: str, where: str) -> str:
        tensors = self.parts.setdefault(part, {})
        name = where.removeprefix(f"{part}.")
        if name in tensors:  # keys with dots in them can spell the same path twice
            name = f"{name}#{len(tensors)}"
        tensors[name] = self._buffers.copy(part, name, tensor)
        return f"{part}/{name}"


def _long_list_of_numbers(value: Sequence[Any]) -> torch.Tensor | None:
    """Return a long list of numbers of one type as a tensor that holds them exactly."""
    if len(value) < _LONG_LIST:
        return None
    kinds = set(map(type, value))
    if kinds == {float}:
        return torch.tensor(value, dtype=torch.float64)
    if kinds == {int} and min(value) >= -(2**63) and max(value) < 2**63:
        return torch.tensor(value, dtype=torch.int64)
    return None


class _Decoder:
    def __init__(self, parts: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        self._parts = parts
        self._num_listed = 0

    def read(self, tree: bytes) -> dict[str, Any]:
        _check_tree(tree)
        return {key: self._decode(value) for key, value in json.loads(tree).items()}

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            kind, content = next(iter(value.items()))
            if kind in ("$tensor", "$array", "$list"):
                part, _, name = content.partition("/")
                tensor = self._parts[part][name]
                if kind == "$list":
                    return self._listed(tensor)
                return tensor if kind == "$tensor" else tensor.numpy()
            if kind == "$bytes":
                return base64.b64decode(content)
            if kind == "$tuple":
                return tuple(self._decode(content))
            if kind == "$items":
                return {self._decode(key): self._decode(item) for key, item in content}
        return {key: self._decode(item) for key, item in value.items()}

    def _listed(self, tensor: torch.Tensor) -> Any:
        self._num_listed += tensor.numel()
        if self._num_listed > _MOST_NUMBERS:
            raise CheckpointError(f"its lists hold more than {_MOST_NUMBERS:,} numbers.")
        return tensor.tolist()

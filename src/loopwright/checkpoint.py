"""What is saved of a run: exported `.pt` files, and state folders of JSON and safetensors.

Nothing here is ever loaded by executing it, and nothing is half-written: files and folders are
written aside, flushed to disk and renamed.
"""

import base64
import hashlib
import json
import os
import shutil
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from loopwright.errors import CheckpointError

_FORMAT = 1
_TREE, _TENSORS, _MANIFEST = "state.json", "tensors.safetensors", "manifest.json"
_PLAIN = (bool, int, float, str, type(None))
_EXPORTED = (*_PLAIN, complex, bytes, bytearray, torch.dtype, torch.device, torch.Size)


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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_export(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a `.pt` file that `torch.load(path, weights_only=True)` reads.

    Raises:
        CheckpointError: An entry is of a type that such a load refuses; nothing is written.
    """
    plain = {key: _exportable(value, key) for key, value in content.items()}
    write_aside(Path(path), lambda aside: torch.save(plain, aside))


def load_export(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `.pt` file onto the CPU, executing nothing."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _exportable(value: Any, where: str) -> Any:
    """Return a value with the numbers of numpy in it as Python's, if loading it runs no code.

    Types are compared exactly: a subclass, such as an enum, would be loaded by importing it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    kind = type(value)
    if kind in (dict, OrderedDict, Counter):
        plain = copy(value)  # keeps the versions that the state of a module has as an attribute
        for key, item in value.items():
            plain[key] = _exportable(item, f"{where}.{key}")
        return plain
    if kind in (list, tuple, set):
        return kind(_exportable(v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind in _EXPORTED or isinstance(value, torch.Tensor):
        return value
    raise CheckpointError(
        f"{where} is a {kind.__name__}, which a checkpoint cannot hold: loading it would execute "
        "code. Save numbers, strings, tensors, and lists and dicts of them."
    )


def write_state(folder: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a tree of dicts, lists, tuples, numbers, strings, arrays and tensors to a folder.

    The folder appears whole or not at all; an earlier one of this name is replaced.

    Raises:
        CheckpointError: The tree holds something else; the message names where.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(state, "state", tensors)).encode()
    files = {_TREE: tree, _TENSORS: save_tensors(tensors)}
    listed = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    files[_MANIFEST] = json.dumps({"format": _FORMAT, "files": listed}, indent=1).encode()
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        for name, data in files.items():
            (aside / name).write_bytes(data)
            _flush(aside / name)
        _flush(aside)
        _put_in_place(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


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
    shutil.rmtree(replaced, ignore_errors=True)


def read_state(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a tree that `write_state` wrote; tensors are on the CPU.

    Raises:
        CheckpointError: A file is missing or is not what was written; the message names it.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        found, files = manifest["format"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} is no saved state: {folder / _MANIFEST} cannot be read ({error})."
        ) from None
    if found != _FORMAT:
        raise CheckpointError(f"{folder} has format {found}; this version reads {_FORMAT}.")
    content = {name: _verified(folder / name, files.get(name, {})) for name in (_TREE, _TENSORS)}
    try:
        decoded = _decode(json.loads(content[_TREE]), load_tensors(content[_TENSORS]))
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}.") from None
    return dict(decoded)


def _verified(path: Path, listed: dict[str, Any]) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    if hashlib.sha256(data).hexdigest() != listed.get("sha256"):
        raise CheckpointError(
            f"{path} is damaged: its {len(data)} bytes are not the {listed.get('bytes')} that were "
            "written (checksum). Use another checkpoint."
        )
    return data


def _encode(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, torch.Tensor):
        return {"$tensor": _put(value, tensors)}
    if isinstance(value, np.ndarray):
        return {"$array": _put(torch.from_numpy(value.copy()), tensors)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        items = [(key, _encode(item, f"{where}.{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
            return dict(items)
        return {"$items": [[_encode(key, where, tensors), item] for key, item in items]}
    if isinstance(value, (list, tuple)):
        listed = [_encode(item, f"{where}[{i}]", tensors) for i, item in enumerate(value)]
        return {"$tuple": listed} if isinstance(value, tuple) else listed
    raise CheckpointError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: it takes numbers, "
        "strings, arrays, tensors, and lists and dicts of them."
    )


def _put(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        kind, content = next(iter(value.items()))
        if kind == "$tensor":
            return tensors[content]
        if kind == "$array":
            return tensors[content].numpy()
        if kind == "$bytes":
            return base64.b64decode(content)
        if kind == "$tuple":
            return tuple(_decode(item, tensors) for item in content)
        if kind == "$items":
            return {_decode(key, tensors): _decode(item, tensors) for key, item in content}
    return {key: _decode(item, tensors) for key, item in value.items()}

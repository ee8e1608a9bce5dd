"""Exported `.pt` files, which other programs read too: whole or not there, and never executed."""

import os
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from copy import copy
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from loopwright.checkpoint import write_aside
from loopwright.errors import CheckpointError
from loopwright.states import check_fits, load_states, states_of

_TYPES = (bool, int, float, str, type(None), complex, bytes, torch.dtype, torch.device, torch.Size)
_MAKES_BYTEARRAY = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")


def save_states(
    parts: Mapping[str, Any], path: str | os.PathLike[str], further: Mapping[str, Any]
) -> None:
    """Write the state of each part as `NAME_state_dict`, and further entries.

    Args:
        parts: Model, optimizer, scheduler by these names; None is left out.
        path: The `.pt` file.
        further: Numbers, strings, tensors, lists and dicts.

    Raises:
        CheckpointError: An entry could not be loaded safely; nothing is written.
    """
    states = {_key(name): states_of(part) for name, part in parts.items() if part is not None}
    save_export({**states, **further}, path)


def restore_states(
    parts: Mapping[str, Any], path: str | os.PathLike[str], *, trusted: Collection[str] = ()
) -> dict[str, Any]:
    """Restore parts from a file of `save_states`, and return all that it holds.

    Args:
        parts: As there. The file needs to hold the model alone.
        path: The `.pt` file.
        trusted: See `load_export`.

    Raises:
        ValueError: The file holds the state of a part that is None.
        CheckpointError: The file does not fit, is damaged or names code that is not trusted.
            Nothing is restored in any case.
    """
    content = load_export(path, trusted=trusted)
    found = {name: part for name, part in parts.items() if name == "model" or _key(name) in content}
    for name, part in found.items():
        if part is None:
            raise ValueError(
                f"The checkpoint holds a {name}, and this trainer has none. Give it one, or load "
                f"with load_{name}=False."
            )
    for name, part in found.items():
        check_fits(part, content.get(_key(name)), f"{_key(name)} of {path}")
    for name, part in found.items():
        load_states(part, content[_key(name)])
    return content


def _key(name: str) -> str:
    return f"{name}_state_dict"


def save_export(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a `.pt` file that `torch.load(path, weights_only=True)` reads.

    Raises:
        CheckpointError: An entry is of a type that such a load refuses; nothing is written.
    """
    plain = as_exportable(content)
    write_aside(Path(path), lambda aside: torch.save(plain, aside))


def as_exportable(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with the numbers of numpy in it as Python's.

    Raises:
        CheckpointError: An entry is of a type that `torch.load(path, weights_only=True)` refuses.
    """
    return {key: _exportable(value, key) for key, value in content.items()}


def load_export(path: str | os.PathLike[str], *, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Read a `.pt` file onto the CPU, executing nothing.

    Args:
        path: A file of `save_export` or `torch.save`.
        trusted: Exact paths of classes and functions that the file may name, such as
            "package.module:Net". They are imported, and making their objects can execute code.

    Raises:
        CheckpointError: The file is damaged or hostile, or names code that is not trusted.
    """
    allowed: list[Any] = [_resolve(name) for name in trusted]
    try:
        _check_archive(Path(path))
        with torch.serialization.safe_globals(allowed):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content
    except (OSError, CheckpointError):
        raise
    except UnpicklingError:  # whose words advise to execute the file
        raise CheckpointError(_refusal(path, trusted)) from None
    except Exception as error:  # whatever a damaged or hostile file leads to
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}.") from None


def _check_archive(path: Path) -> None:
    """Refuse what could take more memory than the file's size, or is written to mislead."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is no archive as torch.save writes one since version 1.6. If you trust it, "
            "load it with torch.load, and save it again."
        )
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        for name, count in Counter(names).items():
            if count > 1 or {"", ".", ".."} & set(re.split(r"[/\\]", name)):
                raise CheckpointError(
                    f"{path} is refused: its archive holds {name!r:.99} ({count} times)."
                )
        if any(each.compress_type for each in members) or sum(m.file_size for m in members) > size:
            raise CheckpointError(f"{path} is refused: its archive would grow when it is read.")
        for name in names:
            if name.endswith("data.pkl") and _MAKES_BYTEARRAY.search(archive.read(name)):
                raise CheckpointError(f"{path} is refused: it holds a bytearray, of any size.")


def _resolve(name: str) -> tuple[Any, str]:
    module, _, path = name.partition(":")
    if not path:
        raise ValueError(f"trusted holds {name!r}; expected a path such as 'package.module:Name'.")
    return attrgetter(path)(import_module(module)), f"{module}.{path}"


def _refusal(path: str | os.PathLike[str], trusted: Collection[str]) -> str:
    names = sorted(_code_named_in(path) - set(trusted))
    if not names:
        return f"{path} cannot be read: it is damaged, or holds more than plain values and tensors."
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f"{path} names code that loading it could execute: {listed}. If you trust the file, name "
        f"them: trusted=[{listed}]."
    )


def _code_named_in(path: str | os.PathLike[str]) -> set[str]:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of a damaged file, which names nothing
        return set()
    return {":".join(name.rsplit(".", 1)) for name in found}


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
    if kind in _TYPES or isinstance(value, torch.Tensor):
        return value
    raise CheckpointError(
        f"{where} is a {kind.__name__}, which a checkpoint cannot hold: loading it would execute "
        "code. Save numbers, strings, tensors, and lists and dicts of them."
    )

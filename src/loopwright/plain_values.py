"""Turning what a run was given into plain JSON values, with secrets masked."""

import math
import re
from collections.abc import Mapping, Set
from dataclasses import asdict, is_dataclass
from enum import Enum
from os import PathLike, fspath
from typing import Any

MASK = "***"

_SECRET_ENDINGS = (
    "key",
    "token",
    "secret",
    "secrets",
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "credential",
    "credentials",
)
_URL_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^/@\s]+(@)")


def to_plain(value: object) -> Any:
    """Return `value` as what JSON knows: dicts, lists, strings, finite numbers, booleans, None.

    Numbers that are not finite become "NaN", "Infinity" or "-Infinity"; an object that has no plain
    form becomes the name of its type, so that nothing from memory gets into a file.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_non_finite(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Set):
        return sorted((to_plain(item) for item in value), key=str)
    return _object_to_plain(value)


def read_number(value: object) -> object:
    """Return the number that `to_plain` had to write as a name, and anything else unchanged."""
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    return value


def mask_secrets(value: Any) -> Any:
    """Return plain values with every secret replaced by `***`.

    Masked are strings below a key that ends in key, token, secret, password or credentials, and
    passwords inside of URLs. Numbers stay: `num_tokens` and `key_dim` are no secrets.
    """
    if isinstance(value, Mapping):
        return {
            key: _mask_all(item) if looks_secret(str(key)) else mask_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [mask_secrets(item) for item in value]
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\1{MASK}\2", value)
    return value


def looks_secret(key: str) -> bool:
    """Tell whether what stands under this key should not be stored."""
    return re.sub(r"[^a-z]", "", key.lower()).endswith(_SECRET_ENDINGS)


def _mask_all(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _mask_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask_all(item) for item in value]
    return MASK if isinstance(value, str) and value else value


def _name_non_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _object_to_plain(value: object) -> Any:
    if isinstance(value, PathLike):
        return fspath(value)
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return to_plain(value.item())  # a tensor or an array that holds one number
    named = value if isinstance(value, type) else type(value)
    return f"{named.__module__}.{named.__qualname__}"

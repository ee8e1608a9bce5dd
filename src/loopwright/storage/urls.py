"""URLs of remote folders: what they must not show, and where their copies are kept here."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from loopwright.plain_values import MASK, looks_secret, mask_secrets

_QUERY_VALUE = re.compile(r"([?&][^=\s&\"']+=)[^&\s\"']+")
_SHORTEST_SECRET = 6  # characters; masking shorter ones would only garble texts


def is_url(place: object) -> bool:
    """Tell whether a place is a URL of fsspec, such as `s3://bucket/run`, rather than a path."""
    return isinstance(place, str) and "://" in place


def mask_url(url: str) -> str:
    """Return a URL, or a text with URLs, without passwords and without the values of queries."""
    masked: str = mask_secrets(_QUERY_VALUE.sub(rf"\1{MASK}", url))
    return masked


def secrets_in(url: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what must never be shown: passwords of the URL, the options and the environment."""
    password = urlsplit(url).password
    found = {password, unquote(password)} if password else set()
    found |= set(_secret_values(options)) | set(_secret_values(os.environ))
    return tuple(sorted((each for each in found if each), key=len, reverse=True))


def _secret_values(values: Mapping[str, Any]) -> Iterable[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _secret_values(value)
        elif isinstance(value, str) and len(value) >= _SHORTEST_SECRET and looks_secret(key):
            yield value


def mask_text(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets, and without those of any URL in it."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return mask_url(text)


def cache_folder(url: str) -> Path:
    """Return where what belongs to a URL is kept on this machine, the same for every process.

    It is below `$XDG_CACHE_HOME/loopwright`, by default `~/.cache/loopwright`.
    """
    parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    masked = mask_url(url).rstrip("/")
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", masked.partition("?")[0].rpartition("/")[2])
    name = f"{stem}-{hashlib.sha256(masked.encode()).hexdigest()[:12]}"
    return parent / "loopwright" / "remote" / name

"""The user's own folder for compiled programs, and for what was found out about steps."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loopwright.checkpoint import write_aside

_LARGEST = 2**16  # bytes of a decision


def cache_folder() -> Path | None:
    """Return the folder, made if need be; None where it cannot be written or is not private."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base, "loopwright", "steps")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except (OSError, RuntimeError):
        return None
    is_ours = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
    is_private = os.name == "nt" or not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if is_ours and is_private and os.access(folder, os.W_OK) else None


def key_of(facts: Any) -> str:
    """Return a name for facts that are plain values."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_decision(key: str) -> dict[str, Any] | None:
    """Return what was stored under a key; None when there is nothing, or it is damaged."""
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / "decisions" / f"{key}.json"
    try:
        if path.stat().st_size > _LARGEST:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_decision(key: str, decision: Mapping[str, Any]) -> None:
    """Store a decision; where that is not possible, it will be made again."""
    folder = cache_folder()
    if folder is None:
        return

    def write(aside: Path) -> None:
        aside.write_text(json.dumps(dict(decision), allow_nan=False), encoding="utf-8")

    path = folder / "decisions" / f"{key}.json"
    with suppress(OSError):
        write_aside(path, write)

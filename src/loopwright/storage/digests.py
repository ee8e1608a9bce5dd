"""What a file is: its size, its checksum, and the checksums that servers know it by."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 2**20
_SMALLEST_PART = 8 * 2**20
_MOST_PARTS = 9000  # S3 takes 10,000


@dataclass(frozen=True)
class Digest:
    """Is what a file held when it was read; two are equal if size and SHA-256 are."""

    num_bytes: int
    sha256: str
    served: frozenset[str] = field(default=frozenset(), compare=False)
    """Checksums that a server may show for it: MD5, and that of S3 for uploads in parts."""

    def to_dict(self) -> dict[str, Any]:
        """Return the two values that are stored."""
        return {"bytes": self.num_bytes, "sha256": self.sha256}


def part_size(num_bytes: int) -> int:
    """Return the bytes in a part of an upload in parts; memory holds two of them."""
    if num_bytes <= _MOST_PARTS * _SMALLEST_PART:
        return _SMALLEST_PART
    return -(-num_bytes // (_MOST_PARTS * 2**20)) * 2**20


def digest_of(path: Path) -> Digest:
    """Read a file once and return its digest."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    in_part = hashlib.md5(usedforsecurity=False)
    size, parts, part = 0, [], part_size(path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            for each in (sha256, md5, in_part):
                each.update(block)
            if size % part == 0:
                parts.append(in_part.digest())
                in_part = hashlib.md5(usedforsecurity=False)
    if size % part:
        parts.append(in_part.digest())
    whole = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    served = frozenset({md5.hexdigest(), f"{whole}-{len(parts)}"})
    return Digest(size, sha256.hexdigest(), served)


def served_digest(about: Mapping[str, Any]) -> str | None:
    """Return the checksum that a server names in its description of a file, if it names one."""
    encoded = about.get("md5Hash") or (about.get("content_settings") or {}).get("content_md5")
    if isinstance(encoded, str):
        return base64.b64decode(encoded).hex()
    if isinstance(encoded, (bytes, bytearray)):
        return bytes(encoded).hex()
    tag = about.get("ETag")
    return tag.strip('"').lower() if isinstance(tag, str) else None

"""The list of what a remote copy holds, with checksums; it is written before what it lists.

So whatever moment the writer is cut off at, each file there is one of the versions listed for it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loopwright.errors import StorageError
from loopwright.storage.digests import Digest
from loopwright.storage.remote import Storage

INDEX_FILE = "checksums.json"
WHOLE = "manifest.json"
"""The file that makes a folder whole: it is sent last, and removed first."""

_FORMAT = 1

Version = Digest | None
"""A content that a file may have; None where it may not be there."""


@dataclass
class Index:
    """Lists the versions that each file of a copy may have: one, unless it is being sent.

    Of a folder with a manifest, which has the checksums of the others, only the manifest is listed.
    """

    id: str
    """Which folder this is a copy of, whatever it is called."""
    files: dict[str, list[Version]] = field(default_factory=dict)

    def expect(self, name: str, version: Version) -> None:
        """Note that a file will be this, from some moment on."""
        known = self.files.setdefault(name, [None])
        if version not in known:
            known.append(version)

    def settle(self, name: str, version: Version) -> None:
        """Note that a file is this."""
        if version is None:
            self.files.pop(name, None)
        else:
            self.files[name] = [version]

    def is_settled(self, name: str, version: Digest) -> bool:
        """Whether a file is known to be this."""
        return self.files.get(name) == [version]

    def whole_folders(self) -> list[str]:
        """Return the names of folders with a manifest, sorted."""
        return sorted(name.rpartition("/")[0] for name in self.files if name.endswith(f"/{WHOLE}"))

    def encode(self) -> bytes:
        """Return the content of the file."""
        files = {name: [v and v.to_dict() for v in self.files[name]] for name in sorted(self.files)}
        content = {"format": _FORMAT, "id": self.id, "files": files}
        return json.dumps(content, indent=1).encode()


def read_index(storage: Storage) -> Index | None:
    """Return the list of a copy, or None where there is none.

    Raises:
        StorageError: It is damaged, or of another format.
    """
    try:
        content = storage.read(INDEX_FILE)
    except FileNotFoundError:
        return None
    where = f"{storage.url}/{INDEX_FILE}"
    try:
        values = json.loads(content)
        found, id = values["format"], str(values["id"])
        files = {name: _versions(listed) for name, listed in values["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(f"{where} cannot be read ({error}); it lists the checksums.") from None
    if found != _FORMAT:
        raise StorageError(f"{where} has format {found}; this version reads {_FORMAT}.")
    for name in files:
        check_name(name, where)
    return Index(id, files)


def _versions(listed: Iterable[Mapping[str, Any] | None]) -> list[Version]:
    return [each and Digest(int(each["bytes"]), str(each["sha256"])) for each in listed]  # type: ignore[misc]


def check_name(name: str, where: str) -> None:
    """Refuse the name of a file that would lie outside of its folder, or hidden in it."""
    parts = name.split("/")
    if any(part == "" or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        raise StorageError(f"{where} lists {name!r:.99}, which can be no file of its folder.")

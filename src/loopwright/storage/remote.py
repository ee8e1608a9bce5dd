"""A folder at a URL of fsspec, with transfers that are verified."""

import asyncio
import hashlib
import os
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from loopwright.errors import MissingExtraError, StorageError
from loopwright.extras import require
from loopwright.storage.digests import Digest, digest_of, part_size, served_digest
from loopwright.storage.urls import mask_text, mask_url, secrets_in

_BLOCK = 8 * 2**20
_LARGEST_TEXT = 2**26  # bytes of a file that is read into memory
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_ONE_ATTEMPT = {"retries": {"mode": "standard", "max_attempts": 1}}
# What makes a file system answer for itself, and fail soon: attempts are ours to repeat.
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60} | _ONE_ATTEMPT},
    "file": {"auto_mkdir": True},
}


def open_storage(
    url: str, options: Mapping[str, Any] | None = None, *, stall_seconds: float = 120.0
) -> "Storage":
    """Return the folder at a URL; nothing is read or written yet.

    Credentials come from where the provider's own library looks for them: its environment
    variables, files, roles.

    Args:
        url: Such as `s3://bucket/folder`, `gs://...`, `az://...`, `file:///...` or `memory://...`.
        options: Further arguments of the file system of fsspec; they are never stored.
        stall_seconds: A transfer in which nothing moves for so long is given up.

    Raises:
        MissingExtraError: A package for this kind of URL is not installed.
        ValueError: The URL is of no kind that fsspec knows.
    """
    fsspec = require("fsspec", "storage")
    protocol = url.partition("://")[0].rpartition("::")[2]
    given = {"use_listings_cache": False, "skip_instance_cache": True}
    given |= {**_SETTINGS.get(protocol.replace("s3a", "s3"), {}), **(options or {})}
    secrets = secrets_in(url, given)
    try:
        system, root = fsspec.core.url_to_fs(url, **given)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        install = f'pip install "loopwright[{extra}]"' if extra else mask_text(str(error), secrets)
        raise MissingExtraError(f"{mask_url(url)} needs another package: {install}") from None
    except ValueError as error:
        raise ValueError(
            f"{mask_url(url)} cannot be used: {mask_text(str(error), secrets)}. Expected a URL of "
            "fsspec, such as s3://bucket/folder."
        ) from None
    return Storage(system, root, mask_url(url).rstrip("/"), secrets, stall_seconds)


class Storage:
    """Is a folder at a URL; names of files are relative to it, with `/` between their parts.

    A file counts as sent when the server has its size and its checksum: the one that it names
    itself, else what is read back from it. Errors are those of the file system; `describe` tells
    them without secrets.

    Args:
        system: A file system of fsspec.
        root: The folder in it.
        url: The same as a URL that may be shown.
        secrets: What `describe` masks.
        stall_seconds: A transfer in which nothing moves for so long is given up.
    """

    def __init__(
        self,
        system: Any,
        root: str,
        url: str,
        secrets: tuple[str, ...] = (),
        stall_seconds: float = 120.0,
    ) -> None:
        self.url = url
        self._system = system
        self._root = root.rstrip("/")
        self._secrets = secrets
        self._stall_seconds = stall_seconds
        protocols = system.protocol
        self._protocols = {protocols} if isinstance(protocols, str) else set(protocols)

    def below(self, name: str) -> "Storage":
        """Return the folder of this name."""
        return Storage(
            self._system, self._at(name), f"{self.url}/{name}", self._secrets, self._stall_seconds
        )

    def put(self, path: str | os.PathLike[str], name: str, digest: Digest | None = None) -> Digest:
        """Send a file, and return once the server is known to have it whole.

        Args:
            path: The file.
            name: What it is called there.
            digest: Its digest, where that is known.

        Raises:
            StorageError: The server has something else.
            OSError: The transfer failed; other types may come from the file system too.
        """
        digest = digest or digest_of(Path(path))
        self._make_parent(name)
        options = self._put_options(digest.num_bytes)
        progress = require("fsspec.callbacks", "storage").Callback()
        self._call("put_file", os.fspath(path), self._at(name), callback=progress, **options)
        self._verify(name, digest)
        return digest

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, verified as in `put`."""
        self._make_parent(name)
        self._call("pipe_file", self._at(name), content)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        sha256 = hashlib.sha256(content).hexdigest()
        self._verify(name, Digest(len(content), sha256, frozenset({md5})))

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            FileNotFoundError: There is none.
            StorageError: It is larger than 64 MiB.
        """
        size = self.size(name)
        if size > _LARGEST_TEXT:
            raise StorageError(f"{self.url}/{name} has {size} bytes; expected {_LARGEST_TEXT}.")
        content: bytes = self._call("cat_file", self._at(name))
        return content

    def get(
        self, name: str, path: str | os.PathLike[str], expected: Collection[Digest] = ()
    ) -> Digest:
        """Receive a file, which appears whole or not at all.

        What an attempt received before it failed stays beside it, and the next one goes on there.

        Args:
            name: The file.
            path: Where it is put.
            expected: What it may be; anything is taken where none is named.

        Raises:
            StorageError: It is something else.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        for _ in range(2):  # the second time without what an earlier attempt left
            self._receive(name, partial)
            digest = digest_of(partial)
            if not expected or digest in expected:
                os.replace(partial, path)
                return digest
            partial.unlink()
        raise StorageError(
            f"{self.url}/{name} is damaged: its {digest.num_bytes} bytes are not those that were "
            "written (checksum)."
        )

    def _receive(self, name: str, partial: Path) -> None:
        size = self.size(name)
        if partial.exists() and partial.stat().st_size > size:
            partial.unlink()
        with partial.open("ab") as file:
            while (start := file.tell()) < size:
                end = min(size, start + _BLOCK)
                block = self._call("cat_file", self._at(name), start=start, end=end)
                if len(block) != end - start:
                    raise StorageError(f"{self.url}/{name} was cut off at byte {start}.")
                file.write(block)

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return the size of every file in the folder, or in one below it, by its name."""
        root = self._at(prefix) if prefix else self._root
        try:
            found = self._call("find", root, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._root.lstrip("/"))
        sizes = {
            each.lstrip("/")[start:].lstrip("/"): about["size"] for each, about in found.items()
        }
        return {name: int(sizes[name]) for name in sorted(sizes) if name}

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def has(self, name: str, digest: Digest) -> bool:
        """Whether the server itself says that a file is there and is this one."""
        try:
            about = self._about(name)
        except FileNotFoundError:
            return False
        return about["size"] == digest.num_bytes and served_digest(about) in digest.served

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        return int(self._about(name)["size"])

    def delete(self, *names: str) -> None:
        """Delete files, in this order; those that are not there are passed over."""
        for name in names:
            try:
                self._call("rm_file", self._at(name))
            except FileNotFoundError:
                continue

    def describe(self, error: BaseException) -> str:
        """Return what to tell of an error, without secrets."""
        kind = "" if isinstance(error, StorageError) else f"{type(error).__name__}: "
        text = f"{kind}{error}".removesuffix(": ")
        return mask_text(" ".join(text.split()), self._secrets)

    def _at(self, name: str) -> str:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{name!r} cannot be a file's name: expected a relative path.")
        return f"{self._root}/{name}"

    def _about(self, name: str) -> Mapping[str, Any]:
        about: Mapping[str, Any] = self._call("info", self._at(name))
        if about.get("type") == "directory":
            raise FileNotFoundError(f"{self.url}/{name}")
        return about

    def _verify(self, name: str, digest: Digest) -> None:
        about = self._about(name)
        if about["size"] != digest.num_bytes:
            raise StorageError(
                f"{self.url}/{name} has {about['size']} bytes after {digest.num_bytes} were sent."
            )
        if served_digest(about) not in digest.served and self._read_back(name) != digest.sha256:
            raise StorageError(f"{self.url}/{name} is not what was sent (checksum).")

    def _read_back(self, name: str) -> str:
        hashed, size = hashlib.sha256(), self.size(name)
        for start in range(0, size, _BLOCK):
            end = min(size, start + _BLOCK)
            hashed.update(self._call("cat_file", self._at(name), start=start, end=end))
        return hashed.hexdigest()

    def _make_parent(self, name: str) -> None:
        """Make the folder of a file where there are folders: on disks, not in buckets."""
        if not self._system.async_impl:
            self._system.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)

    def _put_options(self, num_bytes: int) -> dict[str, Any]:
        """Bound the memory of an upload, which would be hundreds of megabytes by default."""
        if "s3" in self._protocols:
            return {"chunksize": part_size(num_bytes), "max_concurrency": 2}
        return {"chunksize": part_size(num_bytes)} if "gs" in self._protocols else {}

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call the file system, and give up when nothing moves.

        Time limits of the clients do not cover everything: an upload that the server accepts and
        never answers would wait for ever.
        """
        if not self._system.async_impl:
            return getattr(self._system, method)(*arguments, **options)
        started = getattr(self._system, f"_{method}")(*arguments, **options)
        future: Future[Any] = asyncio.run_coroutine_threadsafe(started, self._system.loop)
        progress, moved = options.get("callback"), None
        while True:
            try:
                return future.result(self._stall_seconds)
            except TimeoutError:
                if future.done():
                    raise
                if progress is None or progress.value == moved:
                    future.cancel()
                    seconds = f"{self._stall_seconds:g} s"
                    raise TimeoutError(f"{self.url}: nothing moved for {seconds}") from None
                moved = progress.value
            except BaseException:
                future.cancel()
                raise

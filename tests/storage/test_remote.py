"""Transfers: verified both ways, continued where they were cut off."""

import asyncio
import base64
import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loopwright.errors import MissingExtraError, StorageError
from loopwright.storage import Storage, digest_of, open_storage
from loopwright.storage.digests import part_size, served_digest
from storage.wires import Wire, wire

__all__ = ["wire"]


@pytest.fixture(params=["memory", "file", "wire"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, wire: type[Wire]) -> Storage:
    urls = {
        "memory": f"memory://{tmp_path.name}/run",
        "file": f"file://{tmp_path}/remote/run",
        "wire": "wire://bucket/run",
    }
    return open_storage(urls[request.param])


def make(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_go_there_and_back(storage: Storage, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    sent = storage.put(make(tmp_path / "a", content), "models/a.bin")
    storage.write("b.json", b"{}")
    assert sent.num_bytes == len(content)
    assert sent.sha256 == hashlib.sha256(content).hexdigest()
    assert storage.list() == {"b.json": 2, "models/a.bin": len(content)}
    assert storage.list("models") == {"models/a.bin": len(content)}
    assert storage.exists("b.json")
    assert not storage.exists("models")
    assert not storage.exists("none")
    assert storage.read("b.json") == b"{}"
    assert storage.get("models/a.bin", tmp_path / "new" / "a", [sent]) == sent
    assert (tmp_path / "new" / "a").read_bytes() == content
    storage.delete("none", "b.json")
    assert storage.list() == {"models/a.bin": len(content)}
    assert storage.below("models").list() == {"a.bin": len(content)}


@pytest.mark.parametrize("name", ["", "../a", "a/../../b", "/etc/passwd", "a//b"])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a file's name"):
        open_storage("memory://x/run").write(name, b"")


def test_what_arrives_otherwise_is_noticed(wire: type[Wire], tmp_path: Path) -> None:
    storage, path = open_storage("wire://bucket/run"), make(tmp_path / "a", b"content")
    wire.spoil = lambda name, content: content[:-1]
    with pytest.raises(StorageError, match=r"wire://bucket/run/a has 6 bytes after 7 were sent"):
        storage.put(path, "a")
    wire.spoil = lambda name, content: content.replace(b"t", b"T")
    with pytest.raises(StorageError, match="is not what was sent"):
        storage.put(path, "a")


def test_what_was_changed_there_is_refused(wire: type[Wire], tmp_path: Path) -> None:
    storage, path = open_storage("wire://bucket/run"), make(tmp_path / "a", b"content")
    sent = storage.put(path, "a")
    storage.write("a", b"CONTENT")
    with pytest.raises(StorageError, match=r"wire://bucket/run/a is damaged"):
        storage.get("a", tmp_path / "b", [sent])
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_transfer_goes_on_where_it_was_cut_off(
    wire: type[Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopwright.storage.remote._BLOCK", 10)
    storage, content = open_storage("wire://bucket/run"), bytes(range(45))
    sent = storage.put(make(tmp_path / "a", content), "a")
    asked: list[str] = []

    def cut(what: str, name: str) -> None:
        asked.append(what)
        if what == "get" and asked.count("get") == 3:
            raise ConnectionError("cut")

    wire.on_call = cut
    with pytest.raises(ConnectionError):
        storage.get("a", tmp_path / "b", [sent])
    assert not (tmp_path / "b").exists()
    storage.get("a", tmp_path / "b", [sent])
    assert (tmp_path / "b").read_bytes() == content
    assert asked.count("get") == 3 + 3  # of five blocks two had arrived
    # What an attempt left of another content does not spoil the next one.
    make(tmp_path / ".b.part", b"old")
    storage.get("a", tmp_path / "b", [sent])
    assert (tmp_path / "b").read_bytes() == content


def test_a_hanging_server_is_given_up() -> None:
    """Time limits of clients do not cover an upload that is never answered."""
    from fsspec import asyn

    async def hang(path: str) -> Any:
        await asyncio.sleep(60)

    system = SimpleNamespace(protocol="s3", async_impl=True, loop=asyn.get_loop(), _info=hang)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"s3://b/run: nothing moved for 0.1 s"):
        Storage(system, "b/run", "s3://b/run", stall_seconds=0.1).size("a")
    assert time.monotonic() - began < 5


def test_checksums_are_those_of_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MD5 (S3 for a single request, Google, Azure), and that of S3 for an upload in parts."""
    monkeypatch.setattr("loopwright.storage.digests._BLOCK", 4)
    monkeypatch.setattr("loopwright.storage.digests._SMALLEST_PART", 8)
    content = b"0123456789abcdefghij"
    digest = digest_of(make(tmp_path / "a", content))
    md5 = hashlib.md5(content).digest()
    parts = b"".join(hashlib.md5(content[i : i + 8]).digest() for i in (0, 8, 16))
    tag = f'"{hashlib.md5(parts).hexdigest()}-3"'
    assert served_digest({"ETag": tag}) in digest.served
    assert served_digest({"ETag": f'"{md5.hex()}"'}) in digest.served
    assert served_digest({"md5Hash": base64.b64encode(md5).decode()}) in digest.served
    assert served_digest({"content_settings": {"content_md5": bytearray(md5)}}) in digest.served
    assert served_digest({"ETag": '"00"'}) not in digest.served
    assert served_digest({"size": 3}) is None


def test_parts_are_few_enough_for_large_files() -> None:
    assert part_size(10) == 8 * 2**20
    assert part_size(5 * 2**40) * 10_000 >= 5 * 2**40


def test_errors_are_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "tell-nobody")
    storage = open_storage("memory://x/run?sig=abc", {"password": "p4ssword"})
    told = storage.describe(OSError("p4ssword tell-nobody http://a:b@c/?X-Amz-Signature=12f"))
    assert told == "OSError: *** *** http://a:***@c/?X-Amz-Signature=***"
    assert "abc" not in storage.url


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nosuch://me:\*\*\*@b cannot be used"):
        open_storage("nosuch://me:secret@b")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str, **options: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(MissingExtraError, match=r'pip install "loopwright\[s3\]"'):
        open_storage("s3://bucket/run")

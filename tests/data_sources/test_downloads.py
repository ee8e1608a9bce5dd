"""Tests of downloads against a real server on this machine, and of unpacking archives."""

import hashlib
import io
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from loopwright.datasets.downloads import DownloadManager, cache_folder, extract_archive
from loopwright.errors import DownloadError

CONTENT = bytes(range(256)) * 400
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges, and fails as the path says."""

    requests: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        seen = [path for path, _ in self.requests].count(self.path)
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/busy" and seen < 3:
            return self.send_error(503)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        resumes = wanted is not None and self.path != "/plain"
        body = CONTENT[start:] if resumes else CONTENT
        self.send_response(206 if resumes else 200)
        self.send_header("Content-Length", str(len(body)))
        if resumes:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" and seen < 3 else body)
        return None

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.requests.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_G_43_a_file_is_fetched_once_and_checked(server: str, tmp_path: Path) -> None:
    manager = DownloadManager(tmp_path / "new")
    path = manager.download(f"{server}/data.bin", SHA256)
    assert path == tmp_path / "new" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert manager.download(f"{server}/data.bin", SHA256) == path
    assert Handler.requests == [("/data.bin", None)]
    md5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"
    forced = DownloadManager(tmp_path / "new", force_download=True)
    assert forced.download(f"{server}/data.bin", md5) == path
    assert len(Handler.requests) == 2


@pytest.mark.parametrize("path", ["/ranges", "/plain"])
def test_a_cut_download_goes_on_where_it_stopped(server: str, tmp_path: Path, path: str) -> None:
    """/ranges continues the file; /plain, which knows no ranges, sends all of it again."""
    (tmp_path / f"{path[1:]}.partial").write_bytes(CONTENT[:1000])
    found = DownloadManager(tmp_path).download(server + path, SHA256)
    assert found.read_bytes() == CONTENT
    assert Handler.requests == [(path, "bytes=1000-")]


def test_a_connection_that_breaks_is_tried_again_from_there(server: str, tmp_path: Path) -> None:
    found = DownloadManager(tmp_path).download(f"{server}/cut", SHA256)
    assert found.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert Handler.requests == [
        ("/cut", None),
        ("/cut", f"bytes={half}-"),
        ("/cut", f"bytes={half + half // 2}-"),
    ]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(
    server: str, tmp_path: Path
) -> None:
    assert DownloadManager(tmp_path).download(f"{server}/busy", SHA256).read_bytes() == CONTENT
    assert len(Handler.requests) == 3
    with pytest.raises(DownloadError, match="Cannot fetch .*404.*as path"):
        DownloadManager(tmp_path).download(f"{server}/missing", SHA256)
    assert len(Handler.requests) == 4
    with pytest.raises(DownloadError, match="no http or https address"):
        DownloadManager(tmp_path).download("file:///etc/passwd", SHA256)


def test_what_is_kept_survives_giving_up(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="51200 bytes are kept"):
        DownloadManager(tmp_path, num_attempts=1).download(f"{server}/cut", SHA256)
    assert (tmp_path / "cut.partial").read_bytes() == CONTENT[:51200]


def test_a_part_of_another_version_is_thrown_away(server: str, tmp_path: Path) -> None:
    for earlier in (b"x" * 1000, b"x" * len(CONTENT)):
        (tmp_path / "data.partial").write_bytes(earlier)
        manager = DownloadManager(tmp_path, force_download=True)
        assert manager.download(f"{server}/data", SHA256).read_bytes() == CONTENT


def test_another_file_than_expected_is_removed(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"gave a file with {SHA256}, expected sha256:00"):
        DownloadManager(tmp_path).download(f"{server}/data", "sha256:" + "00" * 32)
    assert list(tmp_path.iterdir()) == []


def test_files_are_kept_in_the_user_s_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert DownloadManager().folder == tmp_path / "loopwright" / "downloads"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "loopwright"


def pack(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tarred:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tarred.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["data.zip", "data.tar.gz"])
def test_archives_are_unpacked_once(kind: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / kind, {"a/b.txt": b"hello", "c.txt": b""})
    folder = DownloadManager(tmp_path).extract(archive)
    assert (folder / "a/b.txt").read_bytes() == b"hello"
    (folder / "c.txt").write_text("kept")
    assert DownloadManager(tmp_path).extract(archive) == folder
    assert (folder / "c.txt").read_text() == "kept"
    DownloadManager(tmp_path, force_download=True).extract(archive)
    assert (folder / "c.txt").read_text() == ""
    assert {path.name for path in tmp_path.iterdir()} == {kind, f"{kind}.content"}


@pytest.mark.parametrize("kind", ["data.zip", "data.tar.gz"])
@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil-loopwright.txt"])
def test_members_that_leave_the_folder_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    archive = pack(tmp_path / "inner" / kind, {"fine.txt": b"x", name: b"evil"})
    try:
        folder = DownloadManager(tmp_path).extract(archive)
    except DownloadError as error:
        assert "was not unpacked" in str(error)  # noqa: PT017
    else:  # tar's rule takes the leading slash away
        assert name.startswith("/")
        assert (folder / name.lstrip("/")).is_file()
    assert not list(tmp_path.glob("evil*"))
    assert not Path("/evil-loopwright.txt").exists()


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as zipped:
        member = zipfile.ZipInfo("link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(member, "/etc/passwd")
    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as tarred:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tarred.addfile(info)
    for name in ("link.zip", "link.tar.gz"):
        with pytest.raises(DownloadError, match="was not unpacked.*link"):
            extract_archive(tmp_path / name, tmp_path / f"{name}.content")


def test_what_is_no_archive_or_would_fill_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(DownloadError, match="was not unpacked"):
        DownloadManager(tmp_path).extract(tmp_path / "text.zip")
    bomb = pack(tmp_path / "bomb.zip", {"zeros": bytes(10**6)})
    usage = shutil.disk_usage(tmp_path)._replace(free=10**5)
    monkeypatch.setattr("loopwright.datasets.downloads.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="takes 1000000 bytes"):
        DownloadManager(tmp_path).extract(bomb)
    assert not (tmp_path / "bomb.zip.content").exists()

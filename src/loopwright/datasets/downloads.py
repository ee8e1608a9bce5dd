"""Downloads that are checked, go on where they were cut, and are unpacked without surprises."""

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from loopwright.errors import DownloadError

_PIECE = 2**20
_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def cache_folder() -> Path:
    """Return the user's folder for what can be fetched or made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loopwright"


class DownloadManager:
    """Fetches files once, keeps them in a folder, and unpacks archives beside them.

    Args:
        folder: where files are kept; `downloads` in the user's cache where it is left out.
        force_download: fetches and unpacks again what is there.
        timeout_seconds: how long a server may stay silent.
        num_attempts: how often a file is asked for before giving up; each attempt goes on where
            the one before was cut.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        force_download: bool = False,
        timeout_seconds: float = 60.0,
        num_attempts: int = 4,
    ) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "downloads"
        self.force_download = force_download
        self.timeout_seconds = timeout_seconds
        self.num_attempts = num_attempts

    def download(self, url: str, checksum: str, name: str | None = None) -> Path:
        """Return the file at a URL, fetched unless it is there.

        What a cut download left is kept and gone on with by an HTTP range.

        Args:
            url: http or https.
            checksum: such as `sha256:` or `md5:` and the hexadecimal digest.
            name: the name of the file here; the last part of the URL where it is left out.

        Raises:
            DownloadError: it cannot be fetched, or is another file than expected.
        """
        if not url.startswith(("http://", "https://")):
            raise DownloadError(f"{url} is no http or https address.")
        path = self.folder / (name or url.rpartition("/")[2])
        if path.exists() and not self.force_download:
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        resumed = self._fetch_whole(url, partial)
        if not _fits(partial, checksum) and resumed:
            partial.unlink()  # the part that was there may have been of another version
            self._fetch_whole(url, partial)
        if not _fits(partial, checksum):
            found = _digest(partial, checksum.partition(":")[0])
            partial.unlink()
            raise DownloadError(
                f"{url} gave a file with {found}, expected {checksum}. It was changed there or on "
                "the way, and has been removed. Give a copy that you trust as path."
            )
        os.replace(partial, path)
        return path

    def extract(self, archive: Path) -> Path:
        """Return the folder with the content of a zip or tar file, unpacked unless it is there.

        Raises:
            DownloadError: it is no archive, or a member would be written outside of the folder.
        """
        folder = archive.with_name(f"{archive.name}.content")
        if folder.is_dir() and not self.force_download:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpacking-") as aside:
            extract_archive(archive, Path(aside) / "content")
            os.replace(Path(aside) / "content", folder)
        return folder

    def download_and_extract(self, url: str, checksum: str, name: str | None = None) -> Path:
        """Return the folder with the content of the archive at a URL."""
        return self.extract(self.download(url, checksum, name))

    def _fetch_whole(self, url: str, partial: Path) -> bool:
        """Fetch until the file is whole; tells whether an earlier part was gone on with."""
        resumed = partial.exists()
        for attempt in range(1, self.num_attempts + 1):
            try:
                self._fetch(url, partial)
                return resumed
            except (OSError, HTTPException) as error:
                if attempt == self.num_attempts or not _may_pass(error):
                    kept = partial.stat().st_size if partial.exists() else 0
                    raise DownloadError(
                        f"Cannot fetch {url}: {error}. {kept} bytes are kept in {partial} and gone "
                        "on with next time. Or give a copy of your own as path."
                    ) from error
                resumed = partial.exists()
                time.sleep(min(0.1 * 4 ** (attempt - 1), 10.0))
        return resumed

    def _fetch(self, url: str, partial: Path) -> None:
        start = partial.stat().st_size if partial.exists() else 0
        request = urllib.request.Request(url, headers={"User-Agent": "loopwright"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            response = urllib.request.urlopen(request, timeout=self.timeout_seconds)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left behind what we have
                return
            raise
        with response:
            continues = response.status == 206 and _range_start(response) == start
            if response.status == 206 and not continues:
                partial.unlink()
                raise ConnectionError("the server sent another range than it was asked for")
            left = response.headers.get("Content-Length")
            _require_space(partial.parent, int(left or 0), url)
            with partial.open("ab" if continues else "wb") as file:
                received = 0
                while piece := response.read(_PIECE):
                    file.write(piece)
                    received += len(piece)
            if left is not None and received < int(left):
                raise ConnectionError(f"the connection ended after {received} of {left} bytes")


def _range_start(response: HTTPResponse) -> int | None:
    text = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdecimal() else None


def _may_pass(error: Exception) -> bool:
    """Tell whether asking again may help."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _RETRIED_STATUS
    return not isinstance(error, FileExistsError | PermissionError)


def _fits(path: Path, checksum: str) -> bool:
    return _digest(path, checksum.partition(":")[0]) == checksum.lower()


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def _require_space(folder: Path, num_bytes: int, what: object) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise DownloadError(f"{what} takes {num_bytes} bytes, and {folder} has {free} left.")


def extract_archive(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file into a new folder.

    Raises:
        DownloadError: it is no archive, needs more space than there is, or a member would be
            written outside of the folder or is neither file nor folder.
    """
    folder.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                members = file.infolist()
                for member in members:
                    _check_member(archive, member)
                _require_space(folder, sum(member.file_size for member in members), archive)
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                _require_space(folder, sum(member.size for member in file), archive)
                file.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DownloadError(f"{archive} was not unpacked: {error}") from error


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        raise DownloadError(
            f"{archive} was not unpacked: its member {member.filename!r} "
            f"{'is a link' if is_link else 'leads out of the folder'}."
        )

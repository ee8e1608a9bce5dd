"""Where files go beside the local disk: copies of experiments at URLs, kept in the background."""

import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Protocol
from weakref import WeakValueDictionary

from loopwright.checkpoint import write_aside
from loopwright.registry import nearest_name
from loopwright.storage import Mirror, is_url, open_storage
from loopwright.storage.local import read_notes

S3_MODES = ("s3", "aws_s3", "aws")
GOOGLE_MODES = ("gcs", "google_storage", "google storage")
WAIT_SECONDS = 60.0
"""How long the end of training waits for the copies; 15 at most where a signal ends it."""

# The copies that this process keeps, by URL and folder: two of one folder would send all twice.
_mirrors: WeakValueDictionary[tuple[str, Path], Mirror] = WeakValueDictionary()


class Uploader(Protocol):
    """Takes files that are whole and copies them elsewhere, without making training wait."""

    def upload(self, local_path: Path, remote_path: str) -> None:
        """Queue a file and return at once.

        Args:
            local_path: The file; it may be removed as soon as this returns.
            remote_path: Its path below the bucket and the folder in it.
        """


class ExperimentUploader:
    """Keeps the folders of experiments, ROOT/project/experiment_TIMESTAMP, below a URL too.

    What is sent is what differs, in order, verified, and again after an outage; see
    `loopwright.storage.Mirror`. The first file of an experiment waits some seconds for the first
    answer of the server, the others wait for nothing.

    Args:
        url: Where the projects are.
        root: Where they are on the disk.
        waits: Whether `upload` returns when the copy is complete, for who saves and then leaves.

    Raises:
        MissingExtraError: A package for this kind of URL is not installed.
        ValueError: The URL is of no kind that is known.
    """

    def __init__(self, url: str, root: str | PathLike[str], *, waits: bool = False) -> None:
        open_storage(url)
        self._url = url.rstrip("/")
        self._root = Path(root).expanduser()
        self._waits = waits
        self._kept: dict[Path, Mirror] = {}

    def upload(self, local_path: Path, remote_path: str) -> None:
        """Have a file sent, with whatever else changed in its experiment's folder.

        Args:
            local_path: The file; one that lies elsewhere is copied into the folder first.
            remote_path: Its path below the root, `project/experiment_TIMESTAMP/...`.

        Raises:
            StorageError: The server answers the first file with a refusal, or has the files of
                another experiment there; or `waits`, and the copy is not complete in 5 minutes.
        """
        parts = PurePosixPath(remote_path).parts
        folder, place = self._root.joinpath(*parts[:2]), self._root.joinpath(*parts)
        if not (place.exists() and place.samefile(local_path)):
            write_aside(place, partial(_copy, local_path))
        mirror = self._mirror_of(folder)
        if self._waits:
            mirror.push(print)

    def catch_up(self, folder: Path) -> None:
        """Have sent what an earlier process left of an experiment, if that had a copy.

        Args:
            folder: Of the experiment.
        """
        if read_notes(folder) is not None:
            self._mirror_of(folder)

    def _mirror_of(self, folder: Path) -> Mirror:
        """Return what copies a folder, told that it changed."""
        url = f"{self._url}/{folder.relative_to(self._root).as_posix()}"
        key = url, folder.absolute()
        mirror = _mirrors.get(key)
        if mirror is not None:
            mirror.changed()
            mirror.report(print)
        else:
            mirror = Mirror(url, folder, wait_seconds=WAIT_SECONDS)
            mirror.begin(print)
            _mirrors[key] = mirror
        self._kept[folder] = mirror
        return mirror


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def finish_uploads(tell: Callable[[str], None] = print, *, is_stopping: bool = False) -> None:
    """Wait for the copies of all experiments of this process; tell what could not be sent.

    They are sent side by side, and the wait for all of them is that for one.

    Args:
        tell: Called with a line for the user.
        is_stopping: Whether a signal or an error ends the process, so that the wait is short.
    """
    began = time.monotonic()
    for mirror in list(_mirrors.values()):
        mirror.finish(tell, is_stopping=is_stopping, waited=time.monotonic() - began)


def cloud_url(
    cloud_save_mode: str | None, bucket_name: str | None, cloud_dir_prefix: str | None
) -> str | None:
    """Return the URL that holds the projects; None where files stay on the local disk.

    Args:
        cloud_save_mode: One of `S3_MODES` or `GOOGLE_MODES`, or the URL itself, such as
            "az://container"; anything else is local.
        bucket_name: The bucket; a URL has its own.
        cloud_dir_prefix: The folder in it.

    Raises:
        ValueError: There is no bucket.
    """
    if cloud_save_mode is not None and is_url(cloud_save_mode):
        url = cloud_save_mode
    elif cloud_save_mode in (*S3_MODES, *GOOGLE_MODES):
        if not bucket_name:
            raise ValueError(
                f"cloud_save_mode is {cloud_save_mode!r} and bucket_name is {bucket_name!r}; give "
                "the name of the bucket, or cloud_save_mode=None to save on the disk alone."
            )
        url = f"{'s3' if cloud_save_mode in S3_MODES else 'gs'}://{bucket_name}"
    else:
        meant = nearest_name(cloud_save_mode or "", [*S3_MODES, *GOOGLE_MODES])
        if meant is not None:
            warnings.warn(
                f"cloud_save_mode is {cloud_save_mode!r}, so files stay on the disk; for a copy "
                f"in the cloud give {meant!r}.",
                stacklevel=2,
            )
        return None
    folder = (cloud_dir_prefix or "").strip("/")
    return f"{url.rstrip('/')}/{folder}" if folder else url.rstrip("/")


def make_uploader(
    cloud_save_mode: str | None,
    bucket_name: str | None,
    cloud_dir_prefix: str | None,
    local_model_result_folder_path: str | PathLike[str],
    *,
    waits: bool = False,
) -> ExperimentUploader | None:
    """Return what uploads in this mode; None where files stay on the local disk.

    Args:
        cloud_save_mode: As in `cloud_url`; so are the next two.
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.
        local_model_result_folder_path: The root of all projects on the disk.
        waits: As in `ExperimentUploader`.
    """
    url = cloud_url(cloud_save_mode, bucket_name, cloud_dir_prefix)
    if url is None:
        return None
    return ExperimentUploader(url, local_model_result_folder_path, waits=waits)

"""Where files go beside the local disk."""

from pathlib import Path
from typing import Protocol

from loopwright.errors import NotSupportedError

S3_MODES = ("s3", "aws_s3", "aws")
GOOGLE_MODES = ("gcs", "google_storage", "google storage")


class Uploader(Protocol):
    """Takes files that are whole and copies them elsewhere, without making training wait."""

    def upload(self, local_path: Path, remote_path: str) -> None:
        """Queue a file and return at once.

        Args:
            local_path: The file; it may be removed as soon as this returns.
            remote_path: Its path below the bucket and the folder in it.
        """


def make_uploader(
    cloud_save_mode: str | None, bucket_name: str | None, cloud_dir_prefix: str | None
) -> Uploader | None:
    """Return what uploads in this mode; None where files stay on the local disk.

    Args:
        cloud_save_mode: One of `S3_MODES` or `GOOGLE_MODES`; anything else is local.
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.

    Raises:
        NotSupportedError: The mode is known and not available.
    """
    if cloud_save_mode in (*S3_MODES, *GOOGLE_MODES):
        raise NotSupportedError(
            f"cloud_save_mode={cloud_save_mode!r} is not available in this version; the bucket "
            f"{bucket_name!r} would stay empty. Use cloud_save_mode=None and copy the folder."
        )
    return None

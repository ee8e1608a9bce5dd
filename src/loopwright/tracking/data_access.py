"""Single files and folders to and from buckets, each verified; credentials are the provider's."""

import os
import shutil
from os import PathLike
from pathlib import Path

from loopwright.storage import Storage, open_storage
from loopwright.storage.fetching import patiently
from loopwright.tracking.uploads import cloud_url


class BaseDataSaver:
    """Sends files to a bucket of S3, and returns when they have arrived.

    Args:
        bucket_name: The bucket.
    """

    cloud = "s3"

    def __init__(self, bucket_name: str = "model-result") -> None:
        self.bucket_name = bucket_name
        self._storage = _bucket(self.cloud, bucket_name)

    def save_file(self, local_file_path: str | PathLike[str], cloud_file_path: str) -> None:
        """Send a file.

        Args:
            local_file_path: The file.
            cloud_file_path: Its path in the bucket.

        Raises:
            StorageError: It did not arrive, after five attempts.
        """
        path = Path(local_file_path).expanduser()
        patiently(self._storage, lambda: self._storage.put(path, cloud_file_path))

    def save_folder(self, local_folder_path: str | PathLike[str], cloud_folder_path: str) -> None:
        """Send what is in a folder, and in those below it.

        Args:
            local_folder_path: The folder.
            cloud_folder_path: Where its files go in the bucket; "" is the bucket itself.

        Raises:
            NotADirectoryError: There is no such folder.
            StorageError: A file did not arrive, after five attempts.
        """
        root, prefix = Path(local_folder_path).expanduser(), cloud_folder_path.strip("/")
        if not root.is_dir():
            raise NotADirectoryError(f"local_folder_path is {str(root)!r}; expected a folder.")
        for path in sorted(each for each in root.rglob("*") if each.is_file()):
            self.save_file(path, f"{prefix}/{path.relative_to(root).as_posix()}".lstrip("/"))


class BaseDataLoader:
    """Receives files of a bucket of S3 that are not on the disk yet.

    Args:
        bucket_name: The bucket.
        local_base_data_folder_path: Where folders of data are on the disk.
    """

    cloud = "s3"

    def __init__(
        self,
        bucket_name: str = "dataset-store",
        local_base_data_folder_path: str | PathLike[str] = "~/project/data",
    ) -> None:
        self.bucket_name = bucket_name
        self.local_base_data_folder_path = os.path.expanduser(local_base_data_folder_path)
        self.available_prepocessed_datasets: list[str] = []
        self._storage = _bucket(self.cloud, bucket_name)

    def load_file(self, cloud_file_path: str, local_file_path: str | PathLike[str]) -> None:
        """Receive a file, whole or not at all; one that is on the disk already stays.

        Args:
            cloud_file_path: Its path in the bucket.
            local_file_path: Where it is put.

        Raises:
            FileNotFoundError: The bucket has no such file.
            StorageError: It cannot be received, after five attempts.
        """
        path = Path(local_file_path).expanduser()
        if not path.is_file():
            patiently(self._storage, lambda: self._storage.get(cloud_file_path, path))

    def exists_local_data_folder(
        self, data_folder_name: str, protect_local_folder: bool = True
    ) -> bool:
        """Tell whether there is a folder of data to use; if not, an empty one is made.

        Args:
            data_folder_name: Its name.
            protect_local_folder: False removes one that is there.

        Raises:
            ValueError: What would be removed is not below `local_base_data_folder_path`.
        """
        base = Path(self.local_base_data_folder_path)
        folder = base / data_folder_name
        if folder.exists() and protect_local_folder:
            return True
        if folder.exists():
            if base.resolve() not in folder.resolve().parents:
                raise ValueError(
                    f"data_folder_name is {data_folder_name!r}; expected the name of a folder "
                    f"below {base}, since what is there would be removed."
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return False

    def preproc_dataset_available(self, preproc_dataset_name: str) -> bool:
        """Tell whether a name is among `available_prepocessed_datasets`."""
        return preproc_dataset_name in self.available_prepocessed_datasets


class BaseGoogleStorageDataSaver(BaseDataSaver):
    """Sends files to a bucket of Google Cloud Storage; see `BaseDataSaver`."""

    cloud = "gcs"


class BaseGoogleStorageDataLoader(BaseDataLoader):
    """Receives files of a bucket of Google Cloud Storage; see `BaseDataLoader`.

    Args:
        bucket_name: The bucket.
        local_dataset_folder_path: Where folders of data are on the disk.
    """

    cloud = "gcs"

    def __init__(
        self,
        bucket_name: str = "dataset-store",
        local_dataset_folder_path: str | PathLike[str] = "~/project/data",
    ) -> None:
        super().__init__(bucket_name, local_dataset_folder_path)


def _bucket(cloud: str, bucket_name: str) -> Storage:
    url = cloud_url(cloud, bucket_name, None)
    assert url is not None
    return open_storage(url)

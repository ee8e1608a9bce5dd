"""Where saved models are read from: the disk, and what is not there from its copy at a URL."""

from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Any

from loopwright.errors import StorageError
from loopwright.experiment_folder import ExperimentFolder
from loopwright.storage import Digest, mask_url, open_storage
from loopwright.storage.fetching import patiently
from loopwright.storage.index import read_index
from loopwright.storage.local import read_notes, write_notes
from loopwright.tracking.model_files import (
    DEFAULT_FOLDER,
    PyTorchLocalModelLoader,
    model_file_name,
    newest_model,
)
from loopwright.tracking.uploads import cloud_url


class CloudModelLoader(PyTorchLocalModelLoader):
    """Reads saved models; fetches one first, verified, where it is not on the disk yet.

    Args:
        url: Where the projects are.
        local_model_result_folder_path: The root of all projects on the disk.
    """

    def __init__(self, url: str, local_model_result_folder_path: str | PathLike[str]) -> None:
        super().__init__(local_model_result_folder_path)
        self.url = url

    def load_model(
        self,
        project_name: str,
        experiment_name: str,
        experiment_timestamp: str,
        model_save_dir: str = "checkpoint_model",
        epoch_num: int | None = None,
        map_location: Any = None,
    ) -> dict[str, Any]:
        """Return the dict of a saved model; see `PyTorchLocalModelLoader.load_model`.

        Without a number the newest one of both places is taken. Where the server cannot be
        reached, a model on the disk is.

        Raises:
            StorageError: There is none on the disk, and the server cannot be reached or has a
                damaged one.
        """
        about = experiment_name, experiment_timestamp
        folder = ExperimentFolder(project_name, *about, self.local_model_result_folder_path)
        models = folder.path / model_save_dir
        self._fetch(folder, models, model_file_name(*about, epoch_num), epoch_num is None)
        try:
            return super().load_model(project_name, *about, model_save_dir, epoch_num, map_location)
        except FileNotFoundError as error:
            error.add_note(f"There is none at {mask_url(self.url)} either.")
            raise

    def _fetch(self, folder: ExperimentFolder, models: Path, name: str, takes_newest: bool) -> None:
        present = [path.name for path in models.glob("*.pth")]
        if not takes_newest and name in present:
            return
        storage = open_storage(f"{self.url}/{folder.relative(folder.path)}")
        try:
            index = patiently(storage, lambda: read_index(storage))
            listed = patiently(storage, lambda: storage.list(models.name))
        except StorageError as error:
            if not present:
                raise
            print(f"Taking a model of {models} alone: {error}")
            return
        there = [each.rpartition("/")[2] for each in listed]
        wanted = newest_model([*there, *present], name) if takes_newest else name
        if wanted in present or wanted not in there:
            return
        key = f"{models.name}/{wanted}"
        versions = index.files.get(key, []) if index else []
        expected: Collection[Digest] = [each for each in versions if each is not None]
        patiently(storage, lambda: storage.get(key, models / wanted, expected))
        if index is not None and read_notes(folder.path) is None:
            write_notes(folder.path, storage.url, index.id)


class PyTorchS3ModelLoader(CloudModelLoader):
    """Reads saved models, which are fetched from a bucket where they are not on the disk.

    Args:
        local_model_result_folder_path: The root of all projects on the disk.
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.
    """

    cloud = "s3"

    def __init__(
        self,
        local_model_result_folder_path: str | PathLike[str] = DEFAULT_FOLDER,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
    ) -> None:
        url = cloud_url(self.cloud, bucket_name, cloud_dir_prefix)
        assert url is not None
        super().__init__(url, local_model_result_folder_path)


class PyTorchGoogleStorageModelLoader(PyTorchS3ModelLoader):
    """Reads saved models with Google Cloud Storage behind the disk; arguments as for S3."""

    cloud = "gcs"


def make_model_loader(
    cloud_save_mode: str | None,
    bucket_name: str | None,
    cloud_dir_prefix: str | None,
    local_model_result_folder_path: str | PathLike[str],
) -> PyTorchLocalModelLoader:
    """Return what reads the models that were saved in this mode.

    Args:
        cloud_save_mode: As in `cloud_url`; so are the next two.
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.
        local_model_result_folder_path: The root of all projects on the local disk.
    """
    url = cloud_url(cloud_save_mode, bucket_name, cloud_dir_prefix)
    if url is None:
        return PyTorchLocalModelLoader(local_model_result_folder_path)
    return CloudModelLoader(url, local_model_result_folder_path)

"""Savers under the names of the clouds they upload to; each also keeps its files on the disk.

Unlike those of a loop they return when the files have arrived, and raise a `StorageError` where
they did not within 5 minutes.
"""

from __future__ import annotations

from os import PathLike

from loopwright.tracking.experiment_savers import FullPyTorchExperimentLocalSaver
from loopwright.tracking.model_files import DEFAULT_FOLDER, PyTorchLocalModelSaver
from loopwright.tracking.results_files import LocalResultsSaver
from loopwright.tracking.uploads import make_uploader


class PyTorchS3ModelSaver(PyTorchLocalModelSaver):
    """Saves models on the disk and in a bucket.

    Args:
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.
        local_model_result_folder_path: The root of all projects on the disk.
        checkpoint_model: Whether models go to `checkpoint_model/`.
    """

    cloud = "s3"

    def __init__(
        self,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        local_model_result_folder_path: str | PathLike[str] = DEFAULT_FOLDER,
        checkpoint_model: bool = False,
    ) -> None:
        folder = local_model_result_folder_path
        uploader = make_uploader(self.cloud, bucket_name, cloud_dir_prefix, folder, waits=True)
        super().__init__(folder, checkpoint_model, uploader=uploader)


class PyTorchGoogleStorageModelSaver(PyTorchS3ModelSaver):
    """Saves models on the disk and in a bucket of Google Cloud Storage; arguments as for S3."""

    cloud = "gcs"


class S3ResultsSaver(LocalResultsSaver):
    """Saves results on the disk and in a bucket.

    Args:
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.
        local_model_result_folder_path: The root of all projects on the disk.
    """

    cloud = "s3"

    def __init__(
        self,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        local_model_result_folder_path: str | PathLike[str] = DEFAULT_FOLDER,
    ) -> None:
        folder = local_model_result_folder_path
        uploader = make_uploader(self.cloud, bucket_name, cloud_dir_prefix, folder, waits=True)
        super().__init__(folder, uploader=uploader)


class GoogleStorageResultsSaver(S3ResultsSaver):
    """Saves results on the disk and in a bucket of Google Cloud Storage; arguments as for S3."""

    cloud = "gcs"


class FullPyTorchExperimentS3Saver(FullPyTorchExperimentLocalSaver):
    """Saves whole experiments on the disk and in a bucket.

    Args:
        project_name: The name of the project.
        experiment_name: The name of the experiment.
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.
        local_model_result_folder_path: The root of all projects on the disk.
    """

    cloud = "s3"

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        local_model_result_folder_path: str | PathLike[str] = DEFAULT_FOLDER,
    ) -> None:
        folder = local_model_result_folder_path
        uploader = make_uploader(self.cloud, bucket_name, cloud_dir_prefix, folder, waits=True)
        super().__init__(project_name, experiment_name, folder, uploader=uploader)


class FullPyTorchExperimentGoogleStorageSaver(FullPyTorchExperimentS3Saver):
    """Saves whole experiments on the disk and in Google Cloud Storage; arguments as for S3."""

    cloud = "gcs"

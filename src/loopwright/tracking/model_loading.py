"""Where saved models are read from."""

from os import PathLike

from loopwright.errors import NotSupportedError
from loopwright.tracking.model_files import PyTorchLocalModelLoader
from loopwright.tracking.uploads import GOOGLE_MODES, S3_MODES


def make_model_loader(
    cloud_save_mode: str | None,
    bucket_name: str | None,
    cloud_dir_prefix: str | None,
    local_model_result_folder_path: str | PathLike[str],
) -> PyTorchLocalModelLoader:
    """Return what reads the models that were saved in this mode.

    Args:
        cloud_save_mode: As in `make_uploader`.
        bucket_name: The bucket.
        cloud_dir_prefix: The folder in it.
        local_model_result_folder_path: The root of all projects on the local disk.

    Raises:
        NotSupportedError: The mode is known and not available.
    """
    if cloud_save_mode in (*S3_MODES, *GOOGLE_MODES):
        raise NotSupportedError(
            f"cloud_save_mode={cloud_save_mode!r} is not available in this version. Copy the "
            f"experiment from {bucket_name!r} and use cloud_save_mode='local'."
        )
    return PyTorchLocalModelLoader(local_model_result_folder_path)

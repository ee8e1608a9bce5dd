"""Checkpoints in Lightning's format, written so that they can be loaded without executing them."""

import os
from pickle import UnpicklingError
from typing import Any

from loopwright.adapters.lightning.upstream import TorchCheckpointIO
from loopwright.errors import CheckpointError, NotSupportedError
from loopwright.exports import as_exportable, load_export, save_export


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes `.ckpt` files of tensors and plain values whole or not at all, and reads such alone.

    Files of `lightning.Trainer` are read likewise, and it reads these.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a file.

        Raises:
            CheckpointError: An entry, such as a module among the hyperparameters, could not be
                loaded safely.
        """
        if _is_url(path):
            super().save_checkpoint(as_exportable(checkpoint), path, storage_options)
        else:
            save_export(checkpoint, path)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        """Read a file onto the CPU, executing nothing.

        Raises:
            CheckpointError: It is damaged, or names code.
            NotSupportedError: `weights_only` is False.
        """
        if weights_only is False:
            raise NotSupportedError(
                "weights_only=False lets a file execute code when it is loaded; expected True or "
                "None. Load a file of your own with lightning.Trainer once and save it again "
                "without the objects in it, as with save_hyperparameters(ignore=[...])."
            )
        if _is_url(path):
            try:
                content: dict[str, Any] = super().load_checkpoint(path, map_location, True)
            except UnpicklingError:  # whose words advise to execute the file
                raise CheckpointError(
                    f"{path} cannot be read: it is damaged, or holds more than plain values and "
                    "tensors."
                ) from None
            return content
        return load_export(path)


def _is_url(path: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(path)

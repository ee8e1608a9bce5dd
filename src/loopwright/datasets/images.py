"""Images in files: decoded by Pillow into uint8 tensors, (channels, height, width)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import (
    Array,
    ClassLabel,
    DataSource,
    Samples,
    classes,
    datasets,
    image,
)
from loopwright.extras import require

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

Mode = Literal["RGB", "L"]


def read_image(path: Path, mode: Mode = "RGB") -> Tensor:
    """Return the image in a file, uint8 (channels, height, width).

    Raises:
        ValueError: the file holds no image.
    """
    pillow = require("PIL.Image", "images")
    try:
        with pillow.open(path) as opened:
            pixels = np.array(opened.convert(mode))
    except (OSError, SyntaxError, pillow.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read: {error}.") from error
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).movedim(2, 0)


class ImageFiles(DataSource):
    """Is a list of image files with a class each; images are decoded when they are read."""

    extra = "images"

    def __init__(self, mode: Mode = "RGB") -> None:
        self._mode: Mode = mode
        self._files: list[tuple[Path, int]] | None = None

    def _find(self) -> list[tuple[Path, int]]:
        """Return each file with the index of its class, in a fixed order."""
        raise NotImplementedError

    @property
    def features_info(self) -> Array:
        return image(len(self._mode))

    def __len__(self) -> int:
        return len(self._listed())

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        chosen = self._listed()[start:stop]
        labels = torch.tensor([label for _, label in chosen], dtype=torch.int64)
        return [read_image(path, self._mode) for path, _ in chosen], labels

    def _listed(self) -> list[tuple[Path, int]]:
        if self._files is None:
            self._files = self._find()
        return self._files


def folders_of(path: Path) -> list[Path]:
    """Return the folders in a folder, by name.

    Raises:
        ValueError: there is no such folder, or none in it.
    """
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}. Check the path.")
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    if not folders:
        raise ValueError(f"{path} holds no folders: expected one for each class.")
    return folders


def images_in(folder: Path) -> list[Path]:
    """Return the image files below a folder, by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


@datasets.register("image_folder")
class ImageFolder(ImageFiles):
    """Reads images from one folder for each class; the folders name the classes.

    Args:
        path: the folder that holds those of the classes.
        mode: RGB for three channels, L for grey; images are converted.
    """

    def __init__(self, path: str, mode: Mode = "RGB") -> None:
        super().__init__(mode)
        self.path = Path(path)
        self._names: Sequence[str] | None = None

    @property
    def labels_info(self) -> ClassLabel:
        if self._names is None:
            self._names = [folder.name for folder in folders_of(self.path)]
        return classes(self._names)

    def _find(self) -> list[tuple[Path, int]]:
        found = [
            (file, index)
            for index, folder in enumerate(folders_of(self.path))
            for file in images_in(folder)
        ]
        if not found:
            raise ValueError(
                f"{self.path} holds no images in its folders: files that end in "
                f"{', '.join(sorted(SUFFIXES))}."
            )
        return found


datasets.add("directory_image_classification", ImageFolder)  # the name that gymnos gives it

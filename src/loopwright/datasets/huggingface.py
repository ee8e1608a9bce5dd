"""Data sets of the `datasets` library: a copy on disk, or one of the hub by its name."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, DataSource, Samples, as_labels, datasets
from loopwright.extras import require


@datasets.register("huggingface")
class HuggingFace(DataSource):
    """Reads a data set of the `datasets` library from a local copy, or by its name from the hub.

    Features are text, images or numbers of one shape. Rows are read as they are asked for.

    Args:
        path: a folder that `save_to_disk` wrote, or the name of a data set of the hub.
        features: the column of features.
        labels: the column of labels; those that are no `ClassLabel` are classes where they are
            whole numbers or text.
        split: which part is read, where there are several.
        config: the configuration, for a name that has several.
    """

    extra = "huggingface"

    def __init__(
        self,
        path: str,
        features: str = "text",
        labels: str = "label",
        split: str = "train",
        config: str | None = None,
    ) -> None:
        self.path = path
        self._features = features
        self._label = labels
        self._split = split
        self._config = config
        self._opened: Any = None
        self._all_labels: tuple[Tensor, Array] | None = None

    @property
    def features_info(self) -> Array:
        first = self._rows()[0][self._features]
        if isinstance(first, str):
            return Array((), str)
        if self._is_image():
            channels = len(_pixels(first))
            return Array((channels, None, None), torch.uint8, value_range=(0.0, 255.0))
        return Array(tuple(np.shape(first)), torch.float32)

    @property
    def labels_info(self) -> Array:
        return self._labels()[1]

    def __len__(self) -> int:
        return len(self._rows())

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        found = self._rows()[start:stop][self._features]
        labels = self._labels()[0][start:stop]
        if isinstance(found[0], str):
            return list(found), labels
        if self._is_image():
            return [_pixels(each) for each in found], labels
        return torch.from_numpy(np.asarray(found, dtype=np.float32)), labels

    def _is_image(self) -> bool:
        return type(self._rows().features[self._features]).__name__ == "Image"

    def _labels(self) -> tuple[Tensor, Array]:
        if self._all_labels is None:
            column = self._rows().select_columns([self._label])[:][self._label]
            names = getattr(self._rows().features[self._label], "names", None)
            self._all_labels = as_labels(np.asarray(column), names)
        return self._all_labels

    def _rows(self) -> Any:
        """Return the opened data set, whose columns are known to be there.

        Raises:
            ValueError: there is no such split or column.
        """
        if self._opened is None:
            library = require("datasets", "huggingface")
            if Path(self.path).is_dir():
                opened = library.load_from_disk(self.path)
            else:
                opened = library.load_dataset(self.path, self._config)
            if isinstance(opened, dict):
                if self._split not in opened:
                    raise ValueError(
                        f"{self.path} has no split {self._split!r}. It has: {', '.join(opened)}."
                    )
                opened = opened[self._split]
            for name in (self._features, self._label):
                if name not in opened.features:
                    raise ValueError(
                        f"{self.path} has no column {name!r}. It has: {', '.join(opened.features)}."
                    )
            self._opened = opened
        return self._opened


def _pixels(picture: Any) -> Tensor:
    """Return a picture of Pillow, uint8 (channels, height, width); grey ones have one channel."""
    pixels = np.array(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).movedim(2, 0)

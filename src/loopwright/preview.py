"""A contact sheet: training images as they come, as the model gets them, and augmented."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from loopwright.checkpoint import write_aside
from loopwright.datasets import Array
from loopwright.errors import ConfigurationError
from loopwright.extras import require

if TYPE_CHECKING:
    from loopwright.experiment import Experiment

__all__ = ["write_preview"]

_CELL = 112  # pixels of a cell's side
_GAP = 4


def write_preview(
    experiment: Experiment,
    path: str | os.PathLike[str],
    *,
    num_samples: int = 8,
    num_epochs: int = 4,
) -> None:
    """Write an image with one row for each sample of the training part.

    A row shows the sample as the data set gives it, as the preprocessors leave it, and as it is
    augmented in each of the first epochs. Nothing is trained.

    Args:
        experiment: what is declared.
        path: the file; its ending decides the format.
        num_samples: rows.
        num_epochs: augmented images in a row.

    Raises:
        ConfigurationError: the samples are no images, or the declared parts do not fit together.
    """
    shown = experiment.preview(num_samples, num_epochs)
    if len(shown.prepared_info.shape) != 3:
        raise ConfigurationError(
            f"A preview shows images; the model gets samples of the shape "
            f"{shown.prepared_info.shape}."
        )
    rows = [
        [
            _cell(raw, shown.raw_info),
            _cell(prepared, shown.prepared_info),
            *(_cell(each, shown.prepared_info) for each in augmented),
        ]
        for raw, prepared, augmented in zip(shown.raw, shown.prepared, shown.augmented, strict=True)
    ]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    pillow = require("PIL.Image", "images")
    suffix = Path(path).suffix or ".png"
    write_aside(
        Path(path), lambda aside: pillow.fromarray(sheet).save(aside, suffix.removeprefix("."))
    )


def _cell(image: Tensor, info: Array) -> np.ndarray:
    """Return an image on white, uint8 [_CELL + _GAP, _CELL + _GAP, 3]."""
    pillow = require("PIL.Image", "images")
    low, high = (torch.as_tensor(bound).reshape(-1, 1, 1) for bound in _range(image, info))
    levels = ((image.float() - low) / (high - low)).clamp(0, 1).mul(255).round().byte()
    pixels = levels if len(levels) == 3 else levels[:1].expand(3, -1, -1)
    drawn = pillow.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    scale = _CELL / max(drawn.size)
    size = tuple(max(1, round(side * scale)) for side in drawn.size)
    cell = pillow.new("RGB", (_CELL + _GAP, _CELL + _GAP), "white")
    cell.paste(drawn.resize(size, pillow.Resampling.NEAREST if scale > 1 else None), (0, 0))
    return np.asarray(cell)


def _range(image: Tensor, info: Array) -> tuple[object, object]:
    if info.value_range is not None:
        return info.value_range
    low, high = float(image.min()), float(image.max())
    return low, high if high > low else low + 1.0

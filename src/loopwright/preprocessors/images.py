"""Preprocessors of images, (channels, height, width), one size or many."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, Samples
from loopwright.extras import require
from loopwright.preprocessors.base import Preprocessor, as_float, preprocessors, require_image

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grey

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@preprocessors.register("image_resize")
class ImageResize(Preprocessor):
    """Scales images to one size, by Pillow; sides are scaled apart, so shapes can be distorted.

    Args:
        width: in pixels.
        height: in pixels.
        resample: the filter.
    """

    extra = "images"

    def __init__(self, width: int, height: int, resample: Resample = "bilinear") -> None:
        if min(width, height) < 1:
            raise ValueError(f"Images of {width}x{height} pixels; expected at least 1x1.")
        self.width = width
        self.height = height
        self._resample = resample.upper()

    def describe(self, info: Array) -> Array:
        require_image(info, "image_resize")
        return replace(info, shape=(info.shape[0], self.height, self.width))

    def transform(self, features: Samples) -> Tensor:
        return torch.stack([self._resize(image) for image in features])

    def _resize(self, image: Tensor) -> Tensor:
        pillow = require("PIL.Image", "images")
        filter_, size = pillow.Resampling[self._resample], (self.width, self.height)
        pixels = image.numpy() if image.dtype == torch.uint8 else as_float(image).numpy()
        # One channel at a time: Pillow has no colour images of floats.
        channels = [pillow.fromarray(channel).resize(size, filter_) for channel in pixels]
        return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels]))


def _each(features: Samples, change: Callable[[Tensor], Tensor]) -> Samples:
    """Apply a function of images, (..., channels, height, width), to all of them."""
    return [change(image) for image in features] if isinstance(features, list) else change(features)


@preprocessors.register("grayscale")
class Grayscale(Preprocessor):
    """Turns colour images into grey ones of one channel, by the weights of ITU-R BT.601."""

    def describe(self, info: Array) -> Array:
        require_image(info, "grayscale")
        if info.shape[0] not in (1, 3):
            raise ValueError(f"grayscale takes 1 or 3 channels; images here have {info.shape[0]}.")
        bounds = info.value_range
        is_shared = bounds is not None and not isinstance(bounds[0], tuple)
        return replace(info, shape=(1, *info.shape[1:]), value_range=bounds if is_shared else None)

    def transform(self, features: Samples) -> Samples:
        return _each(features, _to_gray)


def _to_gray(images: Tensor) -> Tensor:
    if images.shape[-3] == 1:
        return images
    weights = torch.tensor(_LUMA)[:, None, None]
    gray = (as_float(images) * weights).sum(dim=-3, keepdim=True)
    return gray.round().to(torch.uint8) if images.dtype == torch.uint8 else gray


@preprocessors.register("grayscale_to_color")
class GrayscaleToColor(Preprocessor):
    """Turns grey images into colour ones of three equal channels."""

    def describe(self, info: Array) -> Array:
        require_image(info, "grayscale_to_color")
        if info.shape[0] != 1:
            raise ValueError(f"grayscale_to_color takes 1 channel; images have {info.shape[0]}.")
        return replace(info, shape=(3, *info.shape[1:]))

    def transform(self, features: Samples) -> Samples:
        return _each(features, _to_color)


def _to_color(images: Tensor) -> Tensor:
    return images.repeat_interleave(3, dim=-3)

"""Augmentors that change values and leave places: brightness, contrast, colour, erasing."""

from typing import Any

import torch
from torch import Tensor

from loopwright.augmentors.base import Augmentor, augmentors
from loopwright.augmentors.draws import noise_like
from loopwright.datasets.base import Array
from loopwright.extras import require


class _Factor(Augmentor):
    """Changes images by a factor between two bounds; 1 leaves an image as it is.

    Args:
        probability: the share of samples that are changed.
        min_factor: the least factor.
        max_factor: the largest factor.
    """

    extra = "images"
    num_draws = 1

    def __init__(self, probability: float, min_factor: float, max_factor: float) -> None:
        super().__init__(probability)
        if not 0.0 <= min_factor <= max_factor:
            raise ValueError(
                f"min_factor is {min_factor} and max_factor {max_factor}; expected 0 or more, and "
                "the first at most as large as the second."
            )
        self.min_factor = min_factor
        self.max_factor = max_factor

    def _factors(self, draws: Tensor) -> Tensor:
        return self.min_factor + draws[:, 0] * (self.max_factor - self.min_factor)


@augmentors.register("random_brightness")
class RandomBrightness(_Factor):
    """Makes images darker (factors below 1) or brighter."""

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        factors = self._factors(draws)
        changed: Tensor = _enhance().adjust_brightness_accumulative(images, factors)
        return changed


@augmentors.register("random_contrast")
class RandomContrast(_Factor):
    """Moves values towards (factors below 1) or away from the mean grey of each image."""

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        factors = self._factors(draws)
        changed: Tensor = _enhance().adjust_contrast_with_mean_subtraction(images, factors)
        return changed


@augmentors.register("random_color")
class RandomColor(_Factor):
    """Moves colours towards grey (factors below 1) or away from it."""

    def describe(self, info: Array) -> None:
        _require_colors(info, "random_color")

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        factors = self._factors(draws)
        changed: Tensor = _enhance().adjust_saturation_with_gray_subtraction(images, factors)
        return changed


def _enhance() -> Any:
    return require("kornia.enhance", "images")


def _require_colors(info: Array, name: str) -> None:
    if info.shape[0] != 3:
        raise ValueError(f"{name} takes colour images; these have {info.shape[0]} channels")


@augmentors.register("grayscale")
class Grayscale(Augmentor):
    """Takes the colours away; the three channels stay."""

    extra = "images"

    def describe(self, info: Array) -> None:
        _require_colors(info, "grayscale")

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        gray: Tensor = require("kornia.color", "images").rgb_to_grayscale(images)
        return gray.expand_as(images)


@augmentors.register("histogram_equalisation")
class HistogramEqualisation(Augmentor):
    """Spreads the values of each channel evenly over the whole range, in 256 levels."""

    extra = "images"

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        equalized: Tensor = require("kornia.enhance", "images").equalize(images)
        return equalized


@augmentors.register("invert")
class Invert(Augmentor):
    """Turns light into dark."""

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        return 1.0 - images


@augmentors.register("random_erasing")
class RandomErasing(Augmentor):
    """Puts noise in place of a rectangle anywhere in the image.

    Zhong and others, "Random erasing data augmentation" (2017).

    Args:
        probability: the share of samples that are changed.
        rectangle_area: the largest share of each side that is erased; the least is a tenth.
    """

    num_draws = 5

    def __init__(self, probability: float, rectangle_area: float) -> None:
        super().__init__(probability)
        if not 0.1 <= rectangle_area <= 1.0:
            raise ValueError(f"rectangle_area is {rectangle_area}, expected 0.1 to 1.")
        self.rectangle_area = rectangle_area

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        inside = torch.ones_like(images[:, :1], dtype=torch.bool)
        for axis, size in ((2, images.shape[2]), (3, images.shape[3])):
            extent = (0.1 + draws[:, axis - 2] * (self.rectangle_area - 0.1)) * size
            begin = draws[:, axis] * (size - extent)
            places = torch.arange(size, device=images.device) + 0.5
            within = (places >= begin[:, None]) & (places < (begin + extent)[:, None])
            inside = inside & (within[:, None, :, None] if axis == 2 else within[:, None, None])
        return torch.where(inside, noise_like(images, draws[:, 4]), images)

"""Augmentors by name: they change the images of the training part, in batches, on the device."""

from loopwright.augmentors.base import Augmentation, Augmentor, augmentors
from loopwright.augmentors.colors import (
    Grayscale,
    HistogramEqualisation,
    Invert,
    RandomBrightness,
    RandomColor,
    RandomContrast,
    RandomErasing,
)
from loopwright.augmentors.draws import uniform_draws
from loopwright.augmentors.geometry import (
    Distort,
    Flip,
    GaussianDistortion,
    Rotate,
    RotateRange,
    Shear,
    Skew,
    Zoom,
    ZoomRandom,
)
from loopwright.augmentors.training import AugmentingTrainer

__all__ = [
    "AugmentingTrainer",
    "Augmentation",
    "Augmentor",
    "Distort",
    "Flip",
    "GaussianDistortion",
    "Grayscale",
    "HistogramEqualisation",
    "Invert",
    "RandomBrightness",
    "RandomColor",
    "RandomContrast",
    "RandomErasing",
    "Rotate",
    "RotateRange",
    "Shear",
    "Skew",
    "Zoom",
    "ZoomRandom",
    "augmentors",
    "uniform_draws",
]

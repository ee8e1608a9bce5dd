"""What an augmentor offers: a pure function of a batch of images and of draws for each sample."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from loopwright.augmentors.draws import uniform_draws
from loopwright.datasets.base import Array
from loopwright.registry import Registry
from loopwright.seed import derive_seed

_AUGMENTATION_STREAM = 3  # keeps these draws apart from other draws of the run's seed


class Augmentor(ABC):
    """Changes images with a probability; what it draws is given to it.

    Args:
        probability: the share of samples that are changed, drawn anew in each epoch.
    """

    extra: ClassVar[str | None] = None
    """The extra of loopwright that it needs."""
    num_draws: int = 0
    """How many draws `apply` takes for a sample."""

    def __init__(self, probability: float) -> None:
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability is {probability}, expected 0 to 1.")
        self.probability = probability

    def describe(self, info: Array) -> None:
        """Do nothing if such images can be augmented.

        Raises:
            ValueError: they cannot.
        """
        return

    @abstractmethod
    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return all images changed.

        Args:
            images: float [samples, channels, height, width], from 0 to 1.
            draws: [samples, num_draws], from 0 to below 1.
        """

    def augment(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return images of which some are changed, and which: bool [samples].

        Args:
            images: float [samples, channels, height, width], from 0 to 1.
            draws: [samples, 1 + num_draws]; the first decides whether a sample is changed.
        """
        chosen = draws[:, 0] < self.probability
        return torch.where(
            chosen[:, None, None, None], self.apply(images, draws[:, 1:]), images
        ), chosen

    def transform(self, item: Tensor, *, seed: int = 0, epoch: int = 1, sample: int = 0) -> Tensor:
        """Return one image, [channels, height, width] from 0 to 1, changed or not by its draws."""
        draws = uniform_draws(seed, epoch, torch.tensor([sample]), 1 + self.num_draws)
        return self.augment(item[None], draws)[0][0]


augmentors: Registry[type[Augmentor]] = Registry("augmentor", "loopwright.augmentors")


class Augmentation(nn.Module):
    """Applies augmentors in order to batches, on the device that those are on.

    It is a module so that a step that is run as one program sees `epoch`, a buffer, change.

    Args:
        steps: the augmentors.
        info: describes the images; `value_range` says what is black and what is white.
        seed: that of the run.

    Raises:
        ValueError: the features are no images, their range is not known, or a step refuses them.
    """

    epoch: Tensor
    """The epoch whose draws are used, from 1; int64 [], changed in place."""
    _low: Tensor
    _span: Tensor

    def __init__(self, steps: Sequence[Augmentor], info: Array, seed: int) -> None:
        super().__init__()
        if len(info.shape) != 3 or info.dtype is str:
            raise ValueError(
                f"augmentors change images of the shape (channels, height, width); features here "
                f"have the shape {info.shape}"
            )
        if info.value_range is None:
            raise ValueError(
                "augmentors have to know the least and the largest value of the images: prepare "
                "them by divide or normalize, which tell, and not by a step that changes each "
                "pixel on its own"
            )
        for step in steps:
            step.describe(info)
        self.steps = tuple(steps)
        self.describes = info
        low, high = (torch.as_tensor(b, dtype=torch.float32) for b in info.value_range)
        self.register_buffer("epoch", torch.ones((), dtype=torch.int64), persistent=False)
        self.register_buffer("_low", low.reshape(-1, 1, 1), persistent=False)
        self.register_buffer("_span", (high - low).reshape(-1, 1, 1), persistent=False)
        self._seed = derive_seed(seed, _AUGMENTATION_STREAM)

    def forward(self, images: Tensor, samples: Tensor) -> Tensor:
        """Return the images of a batch as they are in `epoch`.

        Args:
            images: [samples, channels, height, width], in the range of the description.
            samples: the number of each sample in the data set, int64.
        """
        count = sum(1 + step.num_draws for step in self.steps)
        draws = uniform_draws(self._seed, self.epoch, samples, count)
        changed = ((images - self._low) / self._span).clamp(0.0, 1.0)
        touched = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for step in self.steps:
            own, draws = draws[:, : 1 + step.num_draws], draws[:, 1 + step.num_draws :]
            changed, chosen = step.augment(changed, own)
            touched = touched | chosen
        result = changed.clamp(0.0, 1.0) * self._span + self._low
        return torch.where(touched[:, None, None, None], result.to(images.dtype), images)

"""A TTModel on several GPUs of one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from loopwright.trainloop.model import TTModel

_CALLED_ON_THE_WRAPPER = ("get_loss", "get_loss_eval", "get_predictions")


class TTDataParallel(nn.DataParallel[TTModel]):
    """Splits each batch over the GPUs; has the attributes of the model, and its methods.

    The three methods of a `TTModel` run with this wrapper as `self`, so that calling `self(...)`
    inside them uses all GPUs.
    """

    def __getattr__(self, name: str) -> Any:
        if name in _CALLED_ON_THE_WRAPPER:
            return getattr(type(self.module), name).__get__(self)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def mean_of_parts(loss: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Return the mean over a batch's samples from the means over its parts.

    Args:
        loss: Means over the parts of a batch that was split over GPUs, [num_parts]; or a scalar,
            which is returned as it is.
        num_samples: Samples in the batch, split as `torch.chunk` does.
    """
    if loss.ndim == 0:
        return loss
    sizes = [len(part) for part in torch.arange(num_samples).chunk(len(loss))]
    return (loss * torch.tensor(sizes, dtype=loss.dtype, device=loss.device)).sum() / num_samples

"""The edges of images."""

import torch
from torch import Tensor
from torch.nn import functional


def find_edges(images: Tensor) -> Tensor:
    """Return how steep images [N, 1, height, width] are at each pixel, from 0 to 1.

    That is the length of the gradient by Sobel's operator, in units of the steepest of an image.

    Args:
        images: Values from 0 to 1.
    """
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None].to(images)
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    steepness = functional.conv2d(padded, kernels).square().sum(dim=1, keepdim=True).sqrt()
    return steepness / steepness.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)

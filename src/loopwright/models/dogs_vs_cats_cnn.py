"""The network that the documented example of dogs and cats names."""

from collections.abc import Sequence

from torch import nn

from loopwright.models.base import models, require_at_least, require_share
from loopwright.models.cnn import cnn


@models.register("dogs_vs_cats_cnn")
def dogs_vs_cats_cnn(
    input_shape: Sequence[int], classes: int = 2, dropout: float = 0.3
) -> nn.Module:
    """Make a `cnn` of four blocks for photographs (G-28, G-29).

    Args:
        input_shape: of an image; channels first, or last as the document writes it ([100, 100, 3]).
            The images themselves are (channels, height, width).
        classes: outputs of the last layer.
        dropout: the share of values dropped before each linear layer.

    Raises:
        ValueError: the samples are no images, or smaller than 16 pixels.
    """
    require_at_least(1, classes=classes)
    require_share(dropout=dropout)
    shape = tuple(input_shape)
    if len(shape) == 3 and shape[2] in (1, 3) and shape[0] not in (1, 3):
        shape = (shape[2], *shape[:2])
    return cnn(shape, classes, channels=(32, 64, 128, 128), hidden=128, dropout=dropout)

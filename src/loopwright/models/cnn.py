"""A small convolutional network for images."""

from collections.abc import Sequence

from torch import nn

from loopwright.models.base import models, require_at_least, require_share


@models.register("cnn")
def cnn(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (32, 64),
    hidden: int = 64,
    dropout: float = 0.0,
) -> nn.Module:
    """Make blocks of 3x3 convolution, batch norm, ReLU and 2x2 maximum, then two linear layers.

    Args:
        input_shape: channels, height and width of an image.
        classes: outputs of the last layer.
        channels: the channels of each block; every block halves height and width.
        hidden: the width of the linear layer before the last.
        dropout: the share of values dropped before each linear layer.

    Raises:
        ValueError: the samples are no images, or too small for that many blocks.
    """
    require_at_least(
        1, classes=classes, hidden=hidden, **{f"channels[{i}]": c for i, c in enumerate(channels)}
    )
    require_share(dropout=dropout)
    if len(input_shape) != 3:
        raise ValueError(
            f"A cnn takes images of shape (channels, height, width); a sample here has the shape "
            f"{tuple(input_shape)}. Choose another model, such as mlp."
        )
    depth, height, width = input_shape
    if min(height, width) < 2 ** len(channels):
        raise ValueError(
            f"{len(channels)} blocks halve {height}x{width} pixels too often: "
            f"give channels with at most {min(height, width).bit_length() - 1} entries."
        )
    layers: list[nn.Module] = []
    for size in channels:
        layers += [
            nn.Conv2d(depth, size, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(size),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        depth, height, width = size, height // 2, width // 2
    layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(depth * height * width, hidden)]
    layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)

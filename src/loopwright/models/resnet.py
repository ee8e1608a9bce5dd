"""Residual networks for images, from 9 to 50 layers."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from loopwright.models.base import image_shape, models, require_at_least, require_share

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_SMALL = 64
"""Images up to this height or width keep their size through the first layer."""


@models.register("resnet")
def resnet(
    input_shape: Sequence[int],
    classes: int,
    depth: Literal[9, 18, 34, 50] = 18,
    width: int = 64,
    dropout: float = 0.0,
) -> nn.Module:
    """Make a residual network.

    Depths 18, 34 and 50 are those of He et al. 2016 ("Deep Residual Learning for Image
    Recognition", table 1), with a first layer of 3x3 and stride 1 for images up to 64 pixels, as in
    its section 4.2. Depth 9 has three halvings and two residual pairs, for small images.

    Args:
        input_shape: channels, height and width of an image.
        classes: outputs of the last layer.
        depth: layers with weights.
        width: channels of the first block; later ones have up to eight times as many.
        dropout: the share of values dropped before the last layer.

    Raises:
        ValueError: the samples are no images, or too small.
    """
    require_at_least(1, classes=classes, width=width)
    require_share(dropout=dropout)
    channels, height, _ = image_shape("resnet", input_shape, smallest=8)
    if depth == 9:
        body, last = _nine(channels, width)
    else:
        body, last = _deep(channels, width, depth, is_small=height <= _SMALL)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*body, *pool, nn.Linear(last, classes))


def _nine(channels: int, width: int) -> tuple[list[nn.Module], int]:
    half, full = 2 * width, 4 * width
    layers: list[nn.Module] = [*_conv(channels, width), nn.ReLU()]
    for before, after, doubled in ((width, half, True), (half, full, False), (full, full, True)):
        layers += [*_conv(before, after), nn.ReLU(), nn.MaxPool2d(2)]
        if doubled:
            layers.append(Residual([*_conv(after, after), nn.ReLU(), *_conv(after, after)]))
    return layers, full


def _deep(channels: int, width: int, depth: int, *, is_small: bool) -> tuple[list[nn.Module], int]:
    if is_small:
        layers: list[nn.Module] = [*_conv(channels, width), nn.ReLU()]
    else:
        layers = [*_conv(channels, width, kernel=7, stride=2), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    before, expansion = width, 4 if depth == 50 else 1
    for stage, count in enumerate(_BLOCKS[depth]):
        inner = width * 2**stage
        for index in range(count):
            stride = 2 if stage and not index else 1
            layers.append(_block(before, inner, inner * expansion, stride))
            before = inner * expansion
    return layers, before


def _block(before: int, inner: int, after: int, stride: int) -> "Residual":
    """Return two layers of 3x3, or three with a narrow middle where the block widens."""
    if after == inner:
        body = [*_conv(before, inner, stride=stride), nn.ReLU(), *_conv(inner, after)]
    else:
        body = [*_conv(before, inner, kernel=1), nn.ReLU(), *_conv(inner, inner, stride=stride)]
        body += [nn.ReLU(), *_conv(inner, after, kernel=1)]
    if before == after and stride == 1:
        return Residual(body)
    return Residual(body, _conv(before, after, kernel=1, stride=stride))


def _conv(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(after)]


class Residual(nn.Module):
    """Adds what layers make of their input to that input, or to a projection of it."""

    def __init__(self, body: list[nn.Module], projection: list[nn.Module] | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.projection = nn.Sequential(*(projection or []))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum after ReLU, of the shape that the body makes."""
        summed: Tensor = self.projection(inputs) + self.body(inputs)
        return summed.relu()

"""A multilayer perceptron."""

from collections.abc import Sequence
from math import prod

from torch import nn

from loopwright.models.base import models, require_at_least, require_share


@models.register("mlp")
def mlp(
    input_shape: Sequence[int],
    classes: int,
    hidden: Sequence[int] = (128, 64),
    dropout: float = 0.0,
) -> nn.Module:
    """Make fully connected layers with ReLU between them; inputs of any shape are flattened.

    Args:
        input_shape: the shape of one sample.
        classes: outputs of the last layer.
        hidden: the width of each layer before the last; empty for a linear model.
        dropout: the share of values dropped after each hidden layer.
    """
    require_at_least(1, classes=classes, **{f"hidden[{i}]": w for i, w in enumerate(hidden)})
    require_share(dropout=dropout)
    width = prod(input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, classes))

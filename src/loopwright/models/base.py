"""What models share: their registry, and checks of what they are given."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from math import prod
from typing import Any

from torch import nn

from loopwright.datasets.base import Array, ClassLabel
from loopwright.registry import Registry

models: Registry[Callable[..., nn.Module]] = Registry("model", "loopwright.models")

INFERRED = ("input_shape", "classes", "vocabulary_size", "categories")
"""Parameters that the data fill in where they are left out."""


def left_to_data(factory: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> list[str]:
    """Return the parameters of a model that nothing but the data can fill in."""
    parameters = signature(factory).parameters
    known = [name for name in INFERRED if name in parameters and name not in arguments]
    return [name for name in known if parameters[name].default is Parameter.empty]


def count_outputs(labels: Array) -> int:
    """Return how many numbers a model should give for a sample."""
    if isinstance(labels, ClassLabel):
        return labels.num_classes
    return prod(size for size in labels.shape if size is not None)


def image_shape(model: str, input_shape: Sequence[int], *, smallest: int) -> tuple[int, int, int]:
    """Return channels, height and width; refuse what is no image, or is smaller than that.

    Raises:
        ValueError: the message names the model.
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"A {model} takes images of shape (channels, height, width); a sample here has the "
            f"shape {tuple(input_shape)}. Choose another model, such as mlp."
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise ValueError(
            f"A {model} takes images of at least {smallest}x{smallest} pixels; these have "
            f"{height}x{width}."
        )
    return channels, height, width


def require_at_least(minimum: int, **sizes: int) -> None:
    """Refuse sizes that are too small, by name."""
    for name, size in sizes.items():
        if size < minimum:
            raise ValueError(f"{name} is {size}, expected at least {minimum}.")


def require_share(**shares: float) -> None:
    """Refuse what is not at least 0 and below 1, by name."""
    for name, share in shares.items():
        if not 0.0 <= share < 1.0:
            raise ValueError(f"{name} is {share}, expected at least 0 and less than 1.")

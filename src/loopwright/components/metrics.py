"""Metrics by name. Each adds up over all samples; means of batch means are never taken."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.arguments import accepts
from loopwright.datasets.base import Array, ClassLabel
from loopwright.errors import MissingExtraError
from loopwright.extras import require
from loopwright.registry import Registry, UnknownNameError, nearest_name


class SummedMetric(nn.Module):
    """Is a sum over samples divided by their number, both kept on the device."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one number per entry that the mean runs over."""
        raise NotImplementedError

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        scores = self.score(outputs.detach(), targets)
        total = scores.sum(dtype=torch.float64).to(self.total.dtype)
        if self.total.device != total.device:
            self.to(total.device)
        self.total += total
        self.count += scores.numel()

    def compute(self) -> Tensor:
        """Return the mean over all that was added since the last reset; NaN without any."""
        return self.total / self.count

    def reset(self) -> None:
        """Forget all batches."""
        self.total.zero_()
        self.count.zero_()


metrics: Registry[Callable[..., Any]] = Registry("metric")


@metrics.register("accuracy")
class Accuracy(SummedMetric):
    """Counts samples whose highest score stands at their class."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for a right sample, 0 for a wrong one; targets are indices or one-hot."""
        classes = targets.argmax(dim=1) if targets.ndim == outputs.ndim else targets
        return outputs.argmax(dim=1) == classes


@metrics.register("mean_absolute_error")
class MeanAbsoluteError(SummedMetric):
    """Averages absolute differences."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the differences without their signs."""
        return (outputs - targets).abs()


@metrics.register("mean_squared_error")
class MeanSquaredError(SummedMetric):
    """Averages squared differences."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the squares of the differences."""
        return (outputs - targets).square()


def find_metric(name: str) -> Callable[..., Any]:
    """Return a registered metric, one at a path, or one of torchmetrics in snake_case.

    Raises:
        UnknownNameError: there is none; torchmetrics is only searched if it is installed.
    """
    if ":" in name or name in metrics:
        return metrics.get(name)
    try:
        package = require("torchmetrics", "metrics")
    except MissingExtraError:
        raise UnknownNameError(
            f"There is no metric {name!r}. Registered: {', '.join(metrics.names())}. "
            'More come with: pip install "loopwright[metrics]"',
            nearest=nearest_name(name, metrics.names()),
        ) from None
    except Exception as error:  # installed, and broken in a way that only it knows
        raise UnknownNameError(
            f"There is no metric {name!r} here ({', '.join(metrics.names())}), and torchmetrics "
            f"cannot be imported: {error}",
            nearest=nearest_name(name, metrics.names()),
        ) from error
    found = {_snake_case(n): n for n in package.__all__ if isinstance(getattr(package, n), type)}
    if name not in found:
        raise UnknownNameError(
            f"There is no metric {name!r}, neither here ({', '.join(metrics.names())}) nor in "
            "torchmetrics",
            nearest=nearest_name(name, [*metrics.names(), *found]),
        )
    kind: Callable[..., Any] = getattr(package, found[name])
    return kind


def build_metric(name: str, arguments: Mapping[str, Any], labels: Array) -> Any:
    """Make a metric; `task` and `num_classes` come from the labels where it takes them."""
    kind = find_metric(name)
    inferred: dict[str, Any] = {}
    if isinstance(labels, ClassLabel):
        inferred = {"task": "multiclass", "num_classes": labels.num_classes}
    known = {key: value for key, value in inferred.items() if accepts(kind, key)}
    return kind(**(known | dict(arguments)))


INFERRED = ("task", "num_classes")
"""Parameters of a metric that the labels fill in where they are left out."""


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()

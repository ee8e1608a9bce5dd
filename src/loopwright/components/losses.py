"""Losses by name. Each is a mean over samples, which is what the loop's arithmetic stands on."""

from collections.abc import Callable

from torch import Tensor, nn

from loopwright.registry import Registry

losses: Registry[Callable[..., nn.Module]] = Registry("loss")


def _sized_like(outputs: Tensor, targets: Tensor) -> None:
    """Refuse what torch would broadcast: (N, 1) against (N,) gives N times N differences."""
    if outputs.shape != targets.shape:
        raise ValueError(
            f"The model gives {tuple(outputs.shape)} and the targets are {tuple(targets.shape)}: "
            "this loss wants both alike."
        )


class _SameShape(nn.Module):
    """Applies a loss to outputs and targets of one shape."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        _sized_like(outputs, targets)
        result: Tensor = self.loss(outputs, targets)
        return result


@losses.register("cross_entropy")
def cross_entropy(label_smoothing: float = 0.0) -> nn.Module:
    """Compare scores of shape (N, classes) with class indices or one-hot labels."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, expected 0 to 1.")
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing)


@losses.register("mean_squared_error")
def mean_squared_error() -> nn.Module:
    """Average squared differences."""
    return _SameShape(nn.MSELoss())


@losses.register("mean_absolute_error")
def mean_absolute_error() -> nn.Module:
    """Average absolute differences."""
    return _SameShape(nn.L1Loss())


@losses.register("huber")
def huber(delta: float = 1.0) -> nn.Module:
    """Average differences: squared up to `delta`, in a straight line beyond."""
    if delta <= 0:
        raise ValueError(f"delta is {delta}, expected more than 0.")
    return _SameShape(nn.HuberLoss(delta=delta))


@losses.register("binary_cross_entropy")
def binary_cross_entropy() -> nn.Module:
    """Compare scores before the sigmoid with labels from 0 to 1 of the same shape."""
    return _SameShape(nn.BCEWithLogitsLoss())


class ZeroOne(nn.Module):
    """Takes scores [N, classes], and indices [N] or one-hot labels [N, classes].

    It gives the share of samples whose highest score is not at their class, and no gradient.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        classes = targets.argmax(dim=1) if targets.ndim == outputs.ndim else targets
        return (outputs.argmax(dim=1) != classes).float().mean()

"""Losses of networks that play against each other, as functions."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

GanLoss = Literal["cross_entropy", "least_squares", "wasserstein"]
GAN_LOSSES: tuple[GanLoss, ...] = ("cross_entropy", "least_squares", "wasserstein")


def discriminator_loss(
    real: Tensor, made: Tensor, kind: GanLoss = "cross_entropy", label_smoothing: float = 0.0
) -> Tensor:
    """Return what a discriminator is to lower: a mean over logits of either kind, both added.

    "cross_entropy" is Goodfellow et al. 2014 (https://arxiv.org/abs/1406.2661), "least_squares"
    Mao et al. 2017 (https://arxiv.org/abs/1611.04076), "wasserstein" Arjovsky et al. 2017
    (https://arxiv.org/abs/1701.07875), for a discriminator whose slope something else bounds:
    `gradient_penalty` or spectral normalization.

    Args:
        real: Logits of real samples, of any shape.
        made: Logits of samples that were made.
        kind: Which loss.
        label_smoothing: By how much less than 1 the target of real samples is; that of made ones
            stays 0 (Salimans et al. 2016, https://arxiv.org/abs/1606.03498, section 3.4).

    Raises:
        ValueError: There is no such loss.
    """
    check_gan_loss(kind)
    if kind == "wasserstein":
        return made.mean() - real.mean()
    distance = _DISTANCES[kind]
    target = torch.full_like(real, 1.0 - label_smoothing)
    return distance(real, target) + distance(made, torch.zeros_like(made))


def generator_loss(made: Tensor, kind: GanLoss = "cross_entropy") -> Tensor:
    """Return what a generator is to lower, a mean over the logits of the samples that it made.

    Of the cross entropy it is the form that does not saturate (Goodfellow et al. 2014).

    Raises:
        ValueError: There is no such loss.
    """
    check_gan_loss(kind)
    if kind == "wasserstein":
        return -made.mean()
    return _DISTANCES[kind](made, torch.ones_like(made))


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, made: Tensor
) -> Tensor:
    """Return the mean over samples of (norm of the gradient - 1) squared, between two batches.

    Gulrajani et al. 2017 (https://arxiv.org/abs/1704.00028), equation 3. Each sample lies at a
    random place between a real and a made one, drawn from torch's global generator.

    Args:
        discriminator: Gives logits of samples, without a norm over the batch.
        real: Real samples [N, ...].
        made: As many that were made; no gradient goes into either.
    """
    shares = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device, dtype=real.dtype)
    between = torch.lerp(real.detach(), made.detach().to(real.dtype), shares).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (norms - 1).square().mean()


def check_gan_loss(kind: Any) -> None:
    """Refuse the name of a loss that there is not.

    Raises:
        ValueError: The message names those that there are.
    """
    if kind not in GAN_LOSSES:
        raise ValueError(f"gan_loss is {kind!r}; expected one of {', '.join(GAN_LOSSES)}.")


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functional.binary_cross_entropy_with_logits,
    "least_squares": functional.mse_loss,
}

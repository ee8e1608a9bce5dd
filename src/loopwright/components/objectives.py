"""Objectives by name: what a model is trained for, where that is no loss on labels."""

from collections.abc import Callable
from functools import partial

from loopwright.registry import Registry
from loopwright.trainer import Trainer
from loopwright.trainers.autoencoders import (
    AutoencoderTrainer,
    DenoisingAutoencoderTrainer,
    VaeTrainer,
)

MakeTrainer = Callable[..., Trainer]
"""Takes what `Trainer` takes."""

objectives: Registry[Callable[..., MakeTrainer]] = Registry("objective")


@objectives.register("autoencoder")
def autoencoder() -> MakeTrainer:
    """Reconstruct the samples."""
    return AutoencoderTrainer


@objectives.register("denoising_autoencoder")
def denoising_autoencoder(noise: float = 0.3, masked: float = 0.0) -> MakeTrainer:
    """Reconstruct the samples from corrupted ones.

    Args:
        noise: the deviation of normal noise that is added.
        masked: the share of values that are set to 0.
    """
    return partial(DenoisingAutoencoderTrainer, noise=noise, masked=masked)


@objectives.register("vae")
def vae(beta: float = 1.0) -> MakeTrainer:
    """Reconstruct the samples from codes that follow a normal distribution.

    Args:
        beta: the weight of the divergence from it.
    """
    return partial(VaeTrainer, beta=beta)

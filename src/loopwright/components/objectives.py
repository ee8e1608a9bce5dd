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
from loopwright.trainers.language_models import LanguageModelTrainer
from loopwright.trainers.seq2seq import Seq2SeqTrainer

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


@objectives.register("seq2seq")
def seq2seq(teacher_forcing: float = 1.0, label_smoothing: float = 0.0) -> MakeTrainer:
    """Write the sequence that belongs to another.

    Args:
        teacher_forcing: the share of true tokens among the decoder's inputs.
        label_smoothing: the share of a target's probability that all tokens get alike.
    """
    return partial(Seq2SeqTrainer, teacher_forcing=teacher_forcing, label_smoothing=label_smoothing)


@objectives.register("language_model")
def language_model() -> MakeTrainer:
    """Give, at each place of a sequence, the token that comes next."""
    return LanguageModelTrainer

"""Objectives by name: what a model is trained for, where that is no loss on labels."""

from collections.abc import Callable
from functools import partial

from loopwright.registry import Registry
from loopwright.trainer import Trainer
from loopwright.trainers.adversarial_autoencoders import (
    AdversarialAutoencoderTrainer,
    SemiSupervisedAaeTrainer,
)
from loopwright.trainers.autoencoders import (
    AutoencoderTrainer,
    DenoisingAutoencoderTrainer,
    VaeTrainer,
)
from loopwright.trainers.gan_losses import GanLoss
from loopwright.trainers.gans import DcganTrainer
from loopwright.trainers.image_translation import CycleGanTrainer, Pix2PixTrainer
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


@objectives.register("aae")
def aae(gan_loss: GanLoss = "cross_entropy", label_smoothing: float = 0.0) -> MakeTrainer:
    """Reconstruct the samples from codes that a discriminator holds to a normal distribution.

    Args:
        gan_loss: cross_entropy or least_squares.
        label_smoothing: by how much less than 1 the discriminator's target of drawn codes is.
    """
    options = {"gan_loss": gan_loss, "label_smoothing": label_smoothing}
    return partial(AdversarialAutoencoderTrainer, **options)


@objectives.register("semi_supervised_aae")
def semi_supervised_aae(
    gan_loss: GanLoss = "cross_entropy", label_smoothing: float = 0.0
) -> MakeTrainer:
    """Keep the class apart from the style in the codes; a label below 0 is not known.

    Args:
        gan_loss: cross_entropy or least_squares.
        label_smoothing: by how much less than 1 the discriminators' target of drawn codes is.
    """
    options = {"gan_loss": gan_loss, "label_smoothing": label_smoothing}
    return partial(SemiSupervisedAaeTrainer, **options)


@objectives.register("dcgan")
def dcgan(
    gan_loss: GanLoss = "cross_entropy",
    label_smoothing: float = 0.0,
    penalty_weight: float = 0.0,
    generator_every: int = 1,
) -> MakeTrainer:
    """Make images that a discriminator does not tell from real ones.

    Args:
        gan_loss: cross_entropy, least_squares or wasserstein, which needs penalty_weight or
            spectral_norm.
        label_smoothing: by how much less than 1 the discriminator's target of real images is.
        penalty_weight: of the gradient penalty; 10 in WGAN-GP.
        generator_every: updates of the discriminator for one of the generator; 5 in WGAN-GP.
    """
    return partial(
        DcganTrainer,
        gan_loss=gan_loss,
        label_smoothing=label_smoothing,
        penalty_weight=penalty_weight,
        generator_every=generator_every,
    )


@objectives.register("pix2pix")
def pix2pix(
    gan_loss: GanLoss = "cross_entropy",
    label_smoothing: float = 0.0,
    distance_weight: float = 100.0,
) -> MakeTrainer:
    """Make the image that belongs to another; the labels are images.

    Args:
        gan_loss: cross_entropy, least_squares or wasserstein, which needs spectral_norm.
        label_smoothing: by how much less than 1 the discriminator's target of real images is.
        distance_weight: of the distance to the target.
    """
    return partial(
        Pix2PixTrainer,
        gan_loss=gan_loss,
        label_smoothing=label_smoothing,
        distance_weight=distance_weight,
    )


@objectives.register("cyclegan")
def cyclegan(
    gan_loss: GanLoss = "least_squares",
    label_smoothing: float = 0.0,
    cycle_weight: float = 10.0,
    identity_weight: float = 0.5,
    pool_size: int = 50,
) -> MakeTrainer:
    """Make images of one kind of those of another, both ways; the labels are the other images.

    Args:
        gan_loss: cross_entropy, least_squares or wasserstein, which needs spectral_norm.
        label_smoothing: by how much less than 1 the discriminators' target of real images is.
        cycle_weight: of the distance of images that went both ways.
        identity_weight: of the distance of images of the wanted kind, as a part of cycle_weight.
        pool_size: images of each kind that the discriminators may see again.
    """
    return partial(
        CycleGanTrainer,
        gan_loss=gan_loss,
        label_smoothing=label_smoothing,
        cycle_weight=cycle_weight,
        identity_weight=identity_weight,
        pool_size=pool_size,
    )

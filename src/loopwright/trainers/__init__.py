"""Trainers by objective, and what uses the models that they train."""

from loopwright.trainers.adversarial_autoencoders import (
    AdversarialAutoencoderTrainer,
    SemiSupervisedAaeInferrer,
    SemiSupervisedAaeTrainer,
    known_label_loss,
)
from loopwright.trainers.autoencoders import (
    AutoencoderInferrer,
    AutoencoderTrainer,
    DenoisingAutoencoderTrainer,
    VaeTrainer,
    corrupt,
    gaussian_kl,
    negative_elbo,
    reconstruction_loss,
)
from loopwright.trainers.classification import ClassificationTrainer
from loopwright.trainers.decoding import beam_search
from loopwright.trainers.gan_losses import (
    GanLoss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from loopwright.trainers.gans import DcganInferrer, DcganTrainer, GanTrainer
from loopwright.trainers.image_pool import ImagePool
from loopwright.trainers.image_translation import (
    CycleGanInferrer,
    CycleGanTrainer,
    Pix2PixInferrer,
    Pix2PixTrainer,
)
from loopwright.trainers.inferrer import Inferrer
from loopwright.trainers.language_models import (
    LanguageModelInferrer,
    LanguageModelTrainer,
    perplexity,
)
from loopwright.trainers.options import ClassificationOptions
from loopwright.trainers.pictures import (
    ImageTranslationsCallback,
    LatentSpaceCallback,
    ReconstructionsCallback,
    SamplesCallback,
)
from loopwright.trainers.seq2seq import Seq2SeqInferrer, Seq2SeqTrainer, mix_predictions
from loopwright.trainers.text_samples import (
    ContinuationsCallback,
    ExactMatchCallback,
    TranslationsCallback,
)
from loopwright.trainers.tokens import token_cross_entropy
from loopwright.trainers.wrapper import ModelWrapper

__all__ = [
    "AdversarialAutoencoderTrainer",
    "AutoencoderInferrer",
    "AutoencoderTrainer",
    "ClassificationOptions",
    "ClassificationTrainer",
    "ContinuationsCallback",
    "CycleGanInferrer",
    "CycleGanTrainer",
    "DcganInferrer",
    "DcganTrainer",
    "DenoisingAutoencoderTrainer",
    "ExactMatchCallback",
    "GanLoss",
    "GanTrainer",
    "ImagePool",
    "ImageTranslationsCallback",
    "Inferrer",
    "LanguageModelInferrer",
    "LanguageModelTrainer",
    "LatentSpaceCallback",
    "ModelWrapper",
    "Pix2PixInferrer",
    "Pix2PixTrainer",
    "ReconstructionsCallback",
    "SamplesCallback",
    "SemiSupervisedAaeInferrer",
    "SemiSupervisedAaeTrainer",
    "Seq2SeqInferrer",
    "Seq2SeqTrainer",
    "TranslationsCallback",
    "VaeTrainer",
    "beam_search",
    "corrupt",
    "discriminator_loss",
    "gaussian_kl",
    "generator_loss",
    "gradient_penalty",
    "known_label_loss",
    "mix_predictions",
    "negative_elbo",
    "perplexity",
    "reconstruction_loss",
    "token_cross_entropy",
]

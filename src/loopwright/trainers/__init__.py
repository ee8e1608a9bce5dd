"""Trainers by objective, and what uses the models that they train."""

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
from loopwright.trainers.inferrer import Inferrer
from loopwright.trainers.language_models import (
    LanguageModelInferrer,
    LanguageModelTrainer,
    perplexity,
)
from loopwright.trainers.options import ClassificationOptions
from loopwright.trainers.pictures import (
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
    "AutoencoderInferrer",
    "AutoencoderTrainer",
    "ClassificationOptions",
    "ClassificationTrainer",
    "ContinuationsCallback",
    "DenoisingAutoencoderTrainer",
    "ExactMatchCallback",
    "Inferrer",
    "LanguageModelInferrer",
    "LanguageModelTrainer",
    "LatentSpaceCallback",
    "ModelWrapper",
    "ReconstructionsCallback",
    "SamplesCallback",
    "Seq2SeqInferrer",
    "Seq2SeqTrainer",
    "TranslationsCallback",
    "VaeTrainer",
    "beam_search",
    "corrupt",
    "gaussian_kl",
    "mix_predictions",
    "negative_elbo",
    "perplexity",
    "reconstruction_loss",
    "token_cross_entropy",
]

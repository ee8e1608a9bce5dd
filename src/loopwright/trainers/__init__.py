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
from loopwright.trainers.inferrer import Inferrer
from loopwright.trainers.options import ClassificationOptions
from loopwright.trainers.pictures import (
    LatentSpaceCallback,
    ReconstructionsCallback,
    SamplesCallback,
)
from loopwright.trainers.wrapper import ModelWrapper

__all__ = [
    "AutoencoderInferrer",
    "AutoencoderTrainer",
    "ClassificationOptions",
    "ClassificationTrainer",
    "DenoisingAutoencoderTrainer",
    "Inferrer",
    "LatentSpaceCallback",
    "ModelWrapper",
    "ReconstructionsCallback",
    "SamplesCallback",
    "VaeTrainer",
    "corrupt",
    "gaussian_kl",
    "negative_elbo",
    "reconstruction_loss",
]

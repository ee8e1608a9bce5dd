"""Trainers that are configured by names and numbers, and what uses the models that they train."""

from loopwright.trainers.classification import ClassificationTrainer
from loopwright.trainers.inferrer import Inferrer
from loopwright.trainers.options import ClassificationOptions
from loopwright.trainers.wrapper import ModelWrapper

__all__ = ["ClassificationOptions", "ClassificationTrainer", "Inferrer", "ModelWrapper"]

"""Models by name, their sizes taken from the data where they are left out."""

from loopwright.models.base import build_model, models
from loopwright.models.cnn import cnn
from loopwright.models.mlp import mlp

__all__ = ["build_model", "cnn", "mlp", "models"]

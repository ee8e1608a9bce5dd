"""Data sets by name: what they hold is described before it is read."""

from loopwright.datasets.base import Array, ClassLabel, DataSource, datasets
from loopwright.datasets.embedded import BreastCancer, Diabetes, Digits, Iris, Wine

__all__ = [
    "Array",
    "BreastCancer",
    "ClassLabel",
    "DataSource",
    "Diabetes",
    "Digits",
    "Iris",
    "Wine",
    "datasets",
]

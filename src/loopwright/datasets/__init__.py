"""Data sets by name: what they hold is described before it is read."""

from loopwright.datasets.arrays import Hdf5, Npz
from loopwright.datasets.base import Array, ClassLabel, DataSource, Samples, datasets
from loopwright.datasets.downloaded import (
    CaliforniaHousing,
    Cifar10,
    DogsVsCats,
    FashionMnist,
    Imdb,
    Mnist,
    TinyImagenet,
    Titanic,
)
from loopwright.datasets.downloads import DownloadManager
from loopwright.datasets.edges import find_edges
from loopwright.datasets.embedded import BreastCancer, Diabetes, DigitEdges, Digits, Iris, Wine
from loopwright.datasets.huggingface import HuggingFace
from loopwright.datasets.images import ImageFolder
from loopwright.datasets.pairs import Addition, Reversal, TextPairs
from loopwright.datasets.tables import Csv, Parquet, encode_rows
from loopwright.datasets.texts import TextFiles
from loopwright.datasets.torch_datasets import TorchDataset, make_source

__all__ = [
    "Addition",
    "Array",
    "BreastCancer",
    "CaliforniaHousing",
    "Cifar10",
    "ClassLabel",
    "Csv",
    "DataSource",
    "Diabetes",
    "DigitEdges",
    "Digits",
    "DogsVsCats",
    "DownloadManager",
    "FashionMnist",
    "Hdf5",
    "HuggingFace",
    "ImageFolder",
    "Imdb",
    "Iris",
    "Mnist",
    "Npz",
    "Parquet",
    "Reversal",
    "Samples",
    "TextFiles",
    "TextPairs",
    "TinyImagenet",
    "Titanic",
    "TorchDataset",
    "Wine",
    "datasets",
    "encode_rows",
    "find_edges",
    "make_source",
]

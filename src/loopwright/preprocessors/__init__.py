"""Preprocessors by name: fitted on the training part, applied to every part."""

from loopwright.preprocessors.audio import Spectrogram
from loopwright.preprocessors.base import Preprocessor, preprocessors
from loopwright.preprocessors.images import Grayscale, GrayscaleToColor, ImageResize
from loopwright.preprocessors.quantities import Divide, KBest, Normalize, Replace, StandardScaler
from loopwright.preprocessors.tables import Impute, OneHot
from loopwright.preprocessors.texts import (
    Alphanumeric,
    BinaryVectorizer,
    Characters,
    Lemmatization,
    Tfidf,
    Tokenizer,
)

__all__ = [
    "Alphanumeric",
    "BinaryVectorizer",
    "Characters",
    "Divide",
    "Grayscale",
    "GrayscaleToColor",
    "ImageResize",
    "Impute",
    "KBest",
    "Lemmatization",
    "Normalize",
    "OneHot",
    "Preprocessor",
    "Replace",
    "Spectrogram",
    "StandardScaler",
    "Tfidf",
    "Tokenizer",
    "preprocessors",
]

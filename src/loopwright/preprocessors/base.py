"""What a preprocessor offers: to learn from the training part, and to change every part alike."""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from loopwright.datasets.base import Array, Samples
from loopwright.errors import NotSupportedError
from loopwright.registry import Registry

Chunk = tuple[Samples, Tensor | None]
"""Features and labels of some rows."""


class Preprocessor(ABC):
    """Changes features, one row per sample, with what it learned from the training part.

    A subclass that learns overrides `fit_generator` where sums over chunks suffice, else `fit`, and
    names in `learned` the attributes that hold what it learned: arrays or plain values.
    """

    extra: ClassVar[str | None] = None
    """The extra of loopwright that it needs."""
    learned: ClassVar[tuple[str, ...]] = ()

    def describe(self, info: Array) -> Array:
        """Return the description of what `transform` makes of features that are described so.

        It is called before fitting, when a size that fitting decides is None, and after it.

        Raises:
            ValueError: such features cannot be changed by this.
        """
        return info

    def fit(self, features: Samples, labels: Tensor | None = None) -> None:
        """Learn from the features of the training part, as the steps before left them."""
        self.fit_generator([(features, labels)])

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        """Learn from the training part in chunks of rows, by summing up over them.

        Raises:
            NotImplementedError: what it learns cannot be summed up.
        """
        self.require_chunks()

    def require_chunks(self) -> None:
        """Do nothing if `fit_generator` can do what `fit` does.

        Raises:
            NotImplementedError: it cannot.
        """
        if self.learned and type(self).fit_generator is Preprocessor.fit_generator:
            raise NotSupportedError(
                f"{self.name} cannot be fitted in chunks: it needs all rows at once. Leave out "
                "chunk_size, or this preprocessor."
            )

    @abstractmethod
    def transform(self, features: Samples) -> Samples:
        """Return changed features and leaves those given as they are."""

    @property
    def name(self) -> str:
        """The registered name, else that of the class."""
        kinds = {preprocessors.get(name): name for name in preprocessors}
        return kinds.get(type(self), type(self).__name__)

    def state(self) -> dict[str, Any]:
        """Return what was learned: numpy arrays and plain JSON values by name.

        Raises:
            ValueError: it has not been fitted.
        """
        self._require_fitted()
        return {name: getattr(self, name) for name in self.learned}

    def restore(self, state: Mapping[str, Any] | str | os.PathLike[str]) -> None:
        """Take what `state` returned, or `save` wrote into a folder, for the same arguments.

        Raises:
            ValueError: names are missing or not known.
        """
        if not isinstance(state, Mapping):
            plain = json.loads(Path(state, "state.json").read_text(encoding="utf-8"))
            state = {**load_file(Path(state, "arrays.safetensors")), **plain}
        if state.keys() != set(self.learned):
            raise ValueError(
                f"A state of {self.name} holds {', '.join(self.learned) or 'nothing'}; "
                f"got {', '.join(state) or 'nothing'}."
            )
        for name, value in state.items():
            setattr(self, name, value)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write what was learned into a folder, as safetensors and JSON."""
        state = self.state()
        arrays = {name: v for name, v in state.items() if isinstance(v, np.ndarray)}
        plain = {name: v for name, v in state.items() if name not in arrays}
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(arrays, Path(folder, "arrays.safetensors"))
        Path(folder, "state.json").write_text(json.dumps(plain), encoding="utf-8")

    def _require_fitted(self) -> None:
        if any(getattr(self, name) is None for name in self.learned):
            raise ValueError(f"{self.name} has not been fitted. Call fit first.")


preprocessors: Registry[type[Preprocessor]] = Registry("preprocessor", "loopwright.preprocessors")


def as_tensor(features: Samples, name: str) -> Tensor:
    """Return features that are rows of one tensor.

    Raises:
        ValueError: they are texts, or images of different sizes.
    """
    if not isinstance(features, Tensor):
        raise ValueError(
            f"{name} takes numbers of one shape; got a list of {type(features[0]).__name__}. Put "
            "a step before it that makes them alike."
        )
    return features


def flat(features: Tensor) -> np.ndarray:
    """Return rows of float64 numbers, one row per sample."""
    return features.reshape(len(features), -1).double().numpy()


def require_numbers(info: Array, name: str) -> None:
    """Refuse text, and tables with categories."""
    if info.dtype is str:
        raise ValueError(f"{name} takes numbers, and the features here are text.")
    if any(info.categories):
        columns = [n for n, known in zip(info.names, info.categories, strict=True) if known]
        raise ValueError(
            f"{name} takes numbers, and the columns {', '.join(columns)} are categories. Put "
            "one_hot before it."
        )


def require_image(info: Array, name: str) -> None:
    """Refuse what is no image of shape (channels, height, width)."""
    if len(info.shape) != 3 or info.dtype is str:
        kind = "text" if info.dtype is str else f"of the shape {info.shape}"
        raise ValueError(
            f"{name} takes images of the shape (channels, height, width); features here are {kind}."
        )


def require_text(info: Array, name: str) -> None:
    """Refuse what is no text."""
    if info.dtype is not str:
        raise ValueError(f"{name} takes text; features here are numbers of the shape {info.shape}.")


def size_of(info: Array) -> int | None:
    """Return how many numbers a sample holds; None where that is not known."""
    known = [size for size in info.shape if size is not None]
    return math.prod(known) if len(known) == len(info.shape) else None


def as_float(features: Tensor) -> Tensor:
    """Return features as floating point numbers."""
    return features if features.is_floating_point() else features.to(torch.float32)

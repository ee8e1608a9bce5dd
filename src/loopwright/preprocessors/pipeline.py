"""From a data set to the rows of each part: read, preprocessed, in memory or on disk."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loopwright.datasets.base import Array, DataSource, Samples
from loopwright.preprocessors.base import Chunk, Preprocessor

_BLOCK = 1024  # rows read at once where no chunk size is given

Stage = Callable[[str], AbstractContextManager[None]]


class Pipeline:
    """Is a list of preprocessors, each fitted on what those before it give."""

    def __init__(self, steps: Sequence[Preprocessor]) -> None:
        self.steps = tuple(steps)

    def describe(self, info: Array) -> Array:
        """Return the description of what the model gets for features that are described so.

        Raises:
            ValueError: a step cannot take what it would get.
        """
        for step in self.steps:
            info = step.describe(info)
        return replace(info, dtype=torch.float32) if info.dtype == torch.uint8 else info

    def described_as(self, info: Array, inputs: Tensor) -> Array:
        """Return the description of what the model gets, after fitting, with the sizes it has."""
        return replace(self.describe(info), shape=tuple(inputs.shape[1:]))

    def transform(self, features: Samples) -> Tensor:
        """Return what the model gets for features as the data set gives them."""
        return as_inputs(_through(self.steps, features))


def _through(steps: Sequence[Preprocessor], features: Samples) -> Samples:
    for step in steps:
        features = step.transform(features)
    return features


def as_inputs(features: Samples) -> Tensor:
    """Return features as rows of one tensor; pixels of uint8 become float32, from 0 to 255.

    Raises:
        ValueError: they are texts, or of different sizes.
    """
    if isinstance(features, list):
        if isinstance(features[0], str):
            raise ValueError(
                "the features are text: end dataset.preprocessors with characters, tokenizer, "
                "tfidf or binary_vectorizer"
            )
        shapes = sorted({tuple(sample.shape) for sample in features})
        if len(shapes) > 1:
            raise ValueError(
                f"samples differ in size, such as {shapes[0]} and {shapes[-1]}: put image_resize "
                "into dataset.preprocessors"
            )
        features = torch.stack(features)
    return features.float() if features.dtype == torch.uint8 else features


@dataclass(frozen=True)
class Preparation:
    """Reads a data set, divides it, fits the preprocessors and applies them."""

    source: DataSource
    pipeline: Pipeline
    rows: Mapping[str, Tensor]
    """The row numbers of each part, int64."""
    encode_labels: Callable[[Tensor], Tensor]
    stage: Stage
    """Gives a context for the time that a stage takes."""
    fits: bool = True
    """Whether the preprocessors are fitted; otherwise they are applied as they are."""

    def in_memory(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return features and labels of each part; steps that learn nothing run while reading."""
        steps = self.pipeline.steps
        num_leading = next((i for i, step in enumerate(steps) if step.learned), len(steps))
        with self.stage("load_data"):
            _, *columns = zip(*self._blocks(_BLOCK, steps[:num_leading]), strict=True)
            features, labels = joined(columns[0]), torch.cat(columns[1])
            split = {n: (take_rows(features, rows), labels[rows]) for n, rows in self.rows.items()}
        for step in steps[num_leading:]:
            if self.fits:
                with self.stage("fit_preprocessors"):
                    step.fit(*split["train"])
            with self.stage("transform_data"):
                split = {name: (step.transform(x), y) for name, (x, y) in split.items()}
        return {n: (as_inputs(x), self.encode_labels(y)) for n, (x, y) in split.items()}

    def on_disk(self, folder: Path, chunk_size: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return features and labels of each part, mapped from files that are made in a folder.

        At no time more than a chunk is held in memory.
        """
        steps = self.pipeline.steps
        ordered = {name: _Ordered(rows) for name, rows in self.rows.items()}
        for index, step in enumerate(steps):
            if step.learned and self.fits:
                with self.stage("fit_preprocessors"):
                    step.fit_generator(self._train_chunks(ordered["train"], chunk_size, index))
        parts: dict[str, Any] = {}
        with self.stage("transform_data"):
            for begin, x, y in self._blocks(chunk_size, steps):
                columns = as_inputs(x), self.encode_labels(y)
                for name, part in ordered.items():
                    if name not in parts:
                        parts[name] = _mapped(folder / name, len(self.rows[name]), *columns)
                    rows, places = part.within(begin, begin + len(y))
                    for kept, column in zip(parts[name], columns, strict=True):
                        kept[places] = column[rows]
        return parts

    def _train_chunks(self, part: "_Ordered", size: int, num_steps: int) -> Iterator[Chunk]:
        """Give the rows of the training part as the first steps leave them."""
        for begin, features, labels in self._blocks(size, self.pipeline.steps[:num_steps]):
            rows, _ = part.within(begin, begin + len(labels))
            if len(rows):
                yield take_rows(features, rows), labels[rows]

    def _blocks(
        self, size: int, steps: Sequence[Preprocessor]
    ) -> Iterator[tuple[int, Samples, Tensor]]:
        """Give the number of a first row, and features and labels of as many rows as asked for."""
        num_rows = len(self.source)
        for start in range(0, num_rows, size):
            features, labels = self.source.read(start, min(start + size, num_rows))
            yield start, _through(steps, features), labels


class _Ordered:
    """Finds which rows of a part lie in a range."""

    def __init__(self, rows: Tensor) -> None:
        self._rows, self._places = rows.sort()

    def within(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the rows from `start` up to `stop`, counted from there, and their places."""
        begin, end = torch.searchsorted(self._rows, torch.tensor([start, stop])).tolist()
        return self._rows[begin:end] - start, self._places[begin:end]


def _mapped(path: Path, num_rows: int, *like: Tensor) -> tuple[Tensor, ...]:
    """Return tensors in new files, with rows as each of those given has them."""
    made = []
    for number, column in enumerate(like):
        shape = (num_rows, *column.shape[1:])
        file = str(path.with_suffix(f".{number}"))
        flat = torch.from_file(file, shared=True, size=math.prod(shape), dtype=column.dtype)
        made.append(flat.reshape(shape))
    return tuple(made)


def take_rows(features: Samples, rows: Tensor) -> Samples:
    """Return these rows of features, in this order."""
    return [features[i] for i in rows.tolist()] if isinstance(features, list) else features[rows]


def joined(blocks: Sequence[Any]) -> Samples:
    """Return the rows of several blocks as one."""
    if isinstance(blocks[0], Tensor):
        return torch.cat(tuple(blocks))
    return [sample for block in blocks for sample in block]

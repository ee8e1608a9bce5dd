"""Pairs of texts, of which one is to be made from the other: from a file, or generated."""

from abc import abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, ClassLabel, DataSource, Samples, datasets
from loopwright.datasets.texts import read_text

PADDING, BEGIN, END = 0, 1, 2
"""The tokens that fill a sequence up, come before it, and end it, unless others are named."""
_SPECIAL = ("<padding>", "<begin>", "<end>")


class _TextPairs(DataSource):
    """Gives the first text of each pair as it is, and of the second the numbers of its characters.

    A target is the token of beginning (1), its characters, that of the end (2), and padding (0) up
    to the longest one.
    """

    def __init__(self) -> None:
        self._made: tuple[list[str], Tensor, ClassLabel] | None = None

    @abstractmethod
    def _pairs(self) -> list[tuple[str, str]]:
        """Return all pairs."""

    @property
    def features_info(self) -> Array:
        return Array((), str)

    @property
    def labels_info(self) -> ClassLabel:
        return self._all()[2]

    def __len__(self) -> int:
        return len(self._all()[0])

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        sources, targets, _ = self._all()
        return sources[start:stop], targets[start:stop]

    def _all(self) -> tuple[list[str], Tensor, ClassLabel]:
        if self._made is None:
            sources, texts = zip(*self._pairs(), strict=True)
            names = (*_SPECIAL, *sorted(set("".join(texts))))
            numbers = {name: number for number, name in enumerate(names)}
            length = max(map(len, texts)) + 2
            targets = torch.zeros(len(texts), length, dtype=torch.int64)
            for row, text in zip(targets, texts, strict=True):
                row[: len(text) + 2] = torch.tensor([BEGIN, *(numbers[each] for each in text), END])
            self._made = list(sources), targets, ClassLabel((length,), torch.int64, names)
        return self._made


@datasets.register("text_pairs")
class TextPairs(_TextPairs):
    """Reads pairs of texts, one of which is to be made from the other, from the lines of a file.

    Args:
        path: a file in UTF-8; each line is a source, a tab and its target.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def _pairs(self) -> list[tuple[str, str]]:
        pairs = []
        for number, line in enumerate(read_text(self.path).splitlines(), start=1):
            parts = line.split("\t")
            if len(parts) != 2 or not all(parts):
                raise ValueError(
                    f"{self.path}, line {number}: {line!r:.80}; expected a source, a tab and its "
                    "target."
                )
            pairs.append((parts[0], parts[1]))
        if not pairs:
            raise ValueError(f"{self.path} holds no line.")
        return pairs


@datasets.register("reversal")
class Reversal(_TextPairs):
    """Holds generated words, no two alike, each of which is to be written backwards.

    Lengths and letters are drawn uniformly, and words that were drawn before are left out.

    Args:
        num_samples: how many.
        min_length: letters in the shortest words.
        max_length: letters in the longest words.
        letters: what they are made of.
        seed: decides the words.
    """

    def __init__(
        self,
        num_samples: int = 12_000,
        min_length: int = 4,
        max_length: int = 10,
        letters: str = "abcdefghij",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= min_length <= max_length or not letters:
            raise ValueError(
                f"min_length is {min_length}, max_length {max_length} and letters {letters!r}; "
                "expected lengths from 1 on, and a letter or more."
            )
        lengths = range(min_length, max_length + 1)
        possible = sum(len(set(letters)) ** length for length in lengths)
        _require_count(num_samples, possible // 2)
        self.num_samples = num_samples
        self.lengths = (min_length, max_length)
        self.letters = letters
        self.seed = seed

    def _pairs(self) -> list[tuple[str, str]]:
        draw = np.random.default_rng(self.seed)
        alphabet, words = np.array(list(self.letters)), dict[str, None]()
        while len(words) < self.num_samples:
            length = draw.integers(self.lengths[0], self.lengths[1] + 1)
            words["".join(draw.choice(alphabet, length))] = None
        return [(word, word[::-1]) for word in words]


@datasets.register("addition")
class Addition(_TextPairs):
    """Holds generated sums, no two alike: 12+345 is to be answered with 357.

    Both numbers are drawn uniformly from 0 up, and pairs that were drawn before are left out.

    Args:
        num_samples: how many.
        digits: of the largest number.
        seed: decides the numbers.
    """

    def __init__(self, num_samples: int = 40_000, digits: int = 3, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= digits <= 9:
            raise ValueError(f"digits is {digits}; expected 1 to 9.")
        _require_count(num_samples, 100**digits // 2)
        self.num_samples = num_samples
        self.digits = digits
        self.seed = seed

    def _pairs(self) -> list[tuple[str, str]]:
        draw = np.random.default_rng(self.seed)
        sums = dict[tuple[int, int], None]()
        while len(sums) < self.num_samples:
            first, second = draw.integers(0, 10**self.digits, 2).tolist()
            sums[first, second] = None
        return [(f"{first}+{second}", str(first + second)) for first, second in sums]


def _require_count(num_samples: int, most: int) -> None:
    """Refuse so many samples that drawing different ones would take long."""
    if not 1 <= num_samples <= most:
        raise ValueError(
            f"num_samples is {num_samples}; expected 1 to {most}, half of what there can be."
        )

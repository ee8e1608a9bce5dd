"""Texts in files: one sample for each file, or blocks of one long text with what comes next."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, ClassLabel, DataSource, Samples, classes, datasets
from loopwright.datasets.images import folders_of


class LabelledTexts(DataSource):
    """Is a list of text files with a class each; they are read when they are asked for."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, int]] | None = None

    def _find(self) -> list[tuple[Path, int]]:
        """Return each file with the index of its class, in a fixed order."""
        raise NotImplementedError

    @property
    def features_info(self) -> Array:
        return Array((), str)

    def __len__(self) -> int:
        return len(self._listed())

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        chosen = self._listed()[start:stop]
        labels = torch.tensor([label for _, label in chosen], dtype=torch.int64)
        return [read_text(path) for path, _ in chosen], labels

    def _listed(self) -> list[tuple[Path, int]]:
        if self._files is None:
            self._files = self._find()
        return self._files


def read_text(path: Path) -> str:
    """Return what a file in UTF-8 holds.

    Raises:
        ValueError: it is no such text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}.") from error


@datasets.register("text_files")
class TextFiles(LabelledTexts):
    """Reads texts from one folder for each class, or blocks of characters from one file.

    Of a folder, every file below the folder of a class is a sample. A file (or, with
    `block_length`, all files below a folder) is cut into blocks of characters, without overlap; a
    sample is a block, and its label at each place the character that comes next.

    Args:
        path: a folder with one folder for each class, or a text file.
        block_length: characters in a block.
        pattern: which files are read.
    """

    def __init__(self, path: str, block_length: int | None = None, pattern: str = "*.txt") -> None:
        super().__init__()
        if block_length is not None and block_length < 1:
            raise ValueError(f"block_length is {block_length}, expected at least 1.")
        self.path = Path(path)
        if self.path.is_file() and block_length is None:
            raise ValueError(f"{path} is one file: give block_length, to cut it into samples.")
        self._pattern = pattern
        self._block_length = block_length
        self._characters: tuple[str, ...] = ()
        self._tokens: Tensor | None = None

    @property
    def features_info(self) -> Array:
        if self._block_length is None:
            return super().features_info
        num_characters = len(self._read_all()[1])
        return Array((self._block_length,), torch.int64, vocabulary_size=num_characters)

    @property
    def labels_info(self) -> ClassLabel:
        if self._block_length is None:
            return classes([folder.name for folder in folders_of(self.path)])
        return ClassLabel((self._block_length,), torch.int64, self._read_all()[1])

    def __len__(self) -> int:
        if self._block_length is None:
            return super().__len__()
        return (len(self._read_all()[0]) - 1) // self._block_length

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        length = self._block_length
        if length is None:
            return super().read(start, stop)
        tokens = self._read_all()[0][start * length : stop * length + 1]
        shape = (stop - start, length)
        return tokens[:-1].reshape(shape), tokens[1:].reshape(shape)

    def _find(self) -> list[tuple[Path, int]]:
        found = [
            (file, index)
            for index, folder in enumerate(folders_of(self.path))
            for file in sorted(folder.rglob(self._pattern))
        ]
        if not found:
            raise ValueError(f"{self.path} holds no files {self._pattern} in its folders.")
        return found

    def _read_all(self) -> tuple[Tensor, tuple[str, ...]]:
        """Return the text as numbers of characters, and the characters."""
        if self._tokens is None:
            is_file = self.path.is_file()
            files = [self.path] if is_file else sorted(self.path.rglob(self._pattern))
            if not self.path.exists():
                raise ValueError(f"There is no file or folder {self.path}. Check the path.")
            if not files:
                raise ValueError(f"{self.path} holds no files {self._pattern}.")
            text = "".join(read_text(file) for file in files)
            if len(text) <= (self._block_length or 0):
                raise ValueError(
                    f"{self.path} holds {len(text)} characters, less than one block of "
                    f"{self._block_length} and the one after it."
                )
            codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
            found, indices = np.unique(codes, return_inverse=True)
            self._characters = tuple(chr(code) for code in found)
            self._tokens = torch.from_numpy(indices.astype(np.int64))
        return self._tokens, self._characters

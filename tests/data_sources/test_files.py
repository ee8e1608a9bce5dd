"""Tests of images and texts in folders, and of a user's own Dataset."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from loopwright.datasets import ClassLabel, ImageFolder, TextFiles, make_source
from loopwright.datasets import datasets as registered


def test_a_folder_of_images_is_named_by_its_folders(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    for name, image in zip(("dog/deep", "cat"), pixels, strict=True):
        (tmp_path / name).mkdir(parents=True)
        pillow.fromarray(image).save(tmp_path / name / "1.png")
    pillow.fromarray(pixels[0, :, :, 0]).resize((7, 3)).save(tmp_path / "dog" / "2.PNG")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    source = ImageFolder(str(tmp_path))
    assert source.labels_info.names == ("cat", "dog")
    assert source.features_info.shape == (3, None, None)
    images, labels = source.tensors()
    assert labels.tolist() == [0, 1, 1]
    assert [tuple(image.shape) for image in images] == [(3, 5, 4), (3, 3, 7), (3, 5, 4)]
    assert torch.equal(images[0], torch.from_numpy(pixels[1]).permute(2, 0, 1))
    assert ImageFolder(str(tmp_path), mode="L")[1][0].shape == (1, 3, 7)
    assert registered.get("directory_image_classification") is ImageFolder
    (tmp_path / "cat" / "3.jpg").write_bytes(b"broken")
    source = ImageFolder(str(tmp_path))
    with pytest.raises(ValueError, match=r"3\.jpg is no image that can be read"):
        source.tensors()


def test_folders_without_anything_are_told(tmp_path: Path) -> None:
    for kind in (ImageFolder, TextFiles):
        with pytest.raises(ValueError, match="There is no folder"):
            len(kind(str(tmp_path / "none")))
    with pytest.raises(ValueError, match="holds no folders"):
        len(ImageFolder(str(tmp_path)))
    (tmp_path / "a").mkdir()
    for kind in (ImageFolder, TextFiles):
        with pytest.raises(ValueError, match="holds no (images|files)"):
            len(kind(str(tmp_path)))


def test_texts_by_class(tmp_path: Path) -> None:
    for name, text in {"neg/1.txt": "bad", "pos/1.txt": "góod", "pos/x/2.txt": "fine"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    source = TextFiles(str(tmp_path))
    assert source.features_info.dtype is str
    assert source.labels_info.names == ("neg", "pos")
    texts, labels = source.tensors()
    assert texts == ["bad", "góod", "fine"]
    assert labels.tolist() == [0, 1, 1]
    (tmp_path / "neg/2.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"2\.txt is no text in UTF-8"):
        TextFiles(str(tmp_path)).tensors()


def test_one_text_is_cut_into_blocks_whose_labels_come_next(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("hello wörld, hello", encoding="utf-8")
    source = TextFiles(str(path), block_length=5)
    names = source.labels_info.names
    assert source.features_info.vocabulary_size == len(names) == len(set("hello wörld, hello"))
    assert len(source) == 3
    features, labels = source.read(1, 3)
    assert ["".join(names[i] for i in row) for row in features] == [" wörl", "d, he"]
    assert ["".join(names[i] for i in row) for row in labels] == ["wörld", ", hel"]
    with pytest.raises(ValueError, match="give block_length"):
        TextFiles(str(path))
    with pytest.raises(ValueError, match="less than one block of 40"):
        len(TextFiles(str(path), block_length=40))
    with pytest.raises(ValueError, match=r"There is no file or folder .*missing\.txt"):
        len(TextFiles(str(tmp_path / "missing.txt"), block_length=5))
    with pytest.raises(ValueError, match=r"holds no files \*\.md"):
        len(TextFiles(str(tmp_path), block_length=5, pattern="*.md"))


class Squares(Dataset[tuple[Tensor, int]]):
    """Stands for a user's dataset; it is found by its path."""

    def __init__(self, count: int = 9) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.full((2,), float(row)), row % 3


class Stream(IterableDataset[int]):
    """Has no rows to divide."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


def test_a_dataset_of_one_s_own_by_path() -> None:
    source = make_source(f"{__name__}:Squares", {"count": 8})
    assert len(source) == 8
    assert source.features_info.shape == (2,)
    assert isinstance(source.labels_info, ClassLabel)
    assert source.labels_info.names == ("0", "1", "2")
    features, labels = source.read(2, 5)
    assert features[:, 0].tolist() == [2, 3, 4]  # type: ignore[call-overload]
    assert labels.tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="Stream has no length"):
        make_source(f"{__name__}:Stream", {})
    with pytest.raises(ValueError, match="expected a DataSource or a Dataset"):
        make_source("builtins:dict", {})

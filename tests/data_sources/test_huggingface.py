"""Tests of data sets of the `datasets` library, from copies on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright.datasets import ClassLabel, make_source

library = pytest.importorskip("datasets")


def saved(path: Path, columns: dict[str, Any], **features: Any) -> str:
    made = library.Dataset.from_dict(columns)
    for name, feature in features.items():
        made = made.cast_column(name, feature)
    made.save_to_disk(path)
    return str(path)


def test_texts_with_named_classes(tmp_path: Path) -> None:
    columns = {"text": ["a", "b", "c"], "label": [1, 0, 1]}
    path = saved(tmp_path / "d", columns, label=library.ClassLabel(names=["neg", "pos"]))
    source = make_source("huggingface", {"path": path})
    assert source.features_info.dtype is str
    assert isinstance(source.labels_info, ClassLabel)
    assert source.labels_info.names == ("neg", "pos")
    texts, labels = source.read(1, 3)
    assert texts == ["b", "c"]
    assert labels.tolist() == [0, 1]


def test_numbers_and_images(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    path = saved(tmp_path / "n", {"x": [[1.0, 2.0], [3.0, 4.0]], "y": [0.5, 1.5]})
    source = make_source("huggingface", {"path": path, "features": "x", "labels": "y"})
    assert source.features_info.shape == (2,)
    assert source.tensors()[1].tolist() == [[0.5], [1.5]]
    pictures = [pillow.fromarray(np.full((4, 5 + i, 3), i, np.uint8)) for i in range(2)]
    path = saved(tmp_path / "i", {"image": pictures, "label": ["b", "a"]}, image=library.Image())
    source = make_source("huggingface", {"path": path, "features": "image"})
    assert source.features_info.shape == (3, None, None)
    images, labels = source.tensors()
    assert [tuple(each.shape) for each in images] == [(3, 4, 5), (3, 4, 6)]
    assert torch.equal(images[1], torch.ones(3, 4, 6, dtype=torch.uint8))
    assert labels.tolist() == [1, 0]


def test_splits_and_columns_that_are_not_there_are_told(tmp_path: Path) -> None:
    made = library.Dataset.from_dict({"text": ["a"], "label": [0]})
    library.DatasetDict({"train": made, "dev": made}).save_to_disk(tmp_path / "d")
    path = str(tmp_path / "d")
    assert len(make_source("huggingface", {"path": path, "split": "dev"})) == 1
    with pytest.raises(ValueError, match="no split 'test'. It has: train, dev"):
        len(make_source("huggingface", {"path": path, "split": "test"}))
    with pytest.raises(ValueError, match="no column 'labels'. It has: text, label"):
        len(make_source("huggingface", {"path": path, "labels": "labels"}))

"""Tests of the models by name: shapes from the data, and what they refuse."""

from typing import Any

import pytest
import torch

from loopwright.datasets import Array, ClassLabel
from loopwright.models import build_model

IMAGE = Array((1, 8, 8), torch.float32)
LABELS = ClassLabel((), torch.int64, ("a", "b", "c"))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("arguments", [{}, {"dropout": 0.5}, {"classes": 5}])
def test_models_fit_the_data(name: str, arguments: dict[str, Any]) -> None:
    model = build_model(name, arguments, features=IMAGE, labels=LABELS)
    outputs = model(torch.zeros(4, *IMAGE.shape))
    assert outputs.shape == (4, arguments.get("classes", 3))


def test_a_label_of_numbers_gives_as_many_outputs() -> None:
    model = build_model("mlp", {"hidden": []}, features=IMAGE, labels=Array((2, 3), torch.float32))
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("mlp", {"hidden": [4, 0]}, r"hidden\[1\] is 0"),
        ("mlp", {"dropout": 1.0}, "dropout is 1.0"),
        ("mlp", {"classes": 0}, "classes is 0"),
        ("cnn", {"input_shape": [4]}, r"images of shape.*\(4,\)"),
        ("cnn", {"channels": [4, 4, 4, 4]}, "at most 3 entries"),
    ],
)
def test_what_cannot_be_made_says_why(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_model(name, arguments, features=IMAGE, labels=LABELS)

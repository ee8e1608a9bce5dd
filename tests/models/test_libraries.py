"""Architectures of Hugging Face and torchvision: made offline, or an error that says why not."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loopwright.errors import ConfigurationError, MissingExtraError
from loopwright.experiment import Experiment
from loopwright.models import huggingface, torchvision
from loopwright.problems import ProblemsError
from loopwright.seed import preserved_random_states

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "padding": 0,
}


@pytest.fixture(autouse=True)
def _seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with preserved_random_states():
        torch.manual_seed(0)
        yield


def test_a_text_model_of_hugging_face_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    """Offline: from its configuration, whose sizes come from the data."""
    pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    for name, text in (("cold", "snow ice frost"), ("hot", "sun fire sand")):
        folder = tmp_path / "texts" / name
        folder.mkdir(parents=True)
        for number in range(16):
            (folder / f"{number}.txt").write_text(text)
    experiment = Experiment(
        dataset={
            "dataset": {"type": "text_files", "path": "texts"},
            "preprocessors": [{"type": "tokenizer", "vocabulary_size": 60, "max_length": 8}],
        },
        model={
            "model": {"type": "huggingface", **BERT},
            "training": {"epochs": 6, "batch_size": 8, "optimizer": {"type": "adam", "lr": 0.01}},
        },
        run={"seed": 0, "threads": 1},
    )
    assert experiment.train()["metrics"]["test_accuracy"] == 1.0
    experiment.save("model.zip")
    loaded = Experiment.load("model.zip")
    texts = ["ice and snow", "fire"]
    assert loaded.predict(texts).tolist() == [0, 1]
    assert np.array_equal(loaded.predict_proba(texts), experiment.predict_proba(texts))


def test_padding_is_not_attended_to() -> None:
    pytest.importorskip("transformers")
    model = huggingface((6,), 2, vocabulary_size=20, **BERT).eval()  # type: ignore[arg-type]
    short = torch.tensor([[3, 4, 5]])
    filled = torch.tensor([[3, 4, 5, 0, 0, 0]])
    torch.testing.assert_close(model(short), model(filled))


def test_an_image_model_of_hugging_face_gets_its_sizes_from_the_data() -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
    model = huggingface((1, 8, 8), 10, "vit", **sizes)
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((6,), {"model_type": "brt"}, "Did you mean 'bert'"),
        ((6,), BERT | {"hiden_size": 4}, "Did you mean 'hidden_size'"),
        ((6,), BERT | {"save_pretrained": 4}, "has no 'save_pretrained'"),
        ((6,), BERT | {"_attn_implementation": "own/kernel"}, "'_attn_impl.* code to fetch"),
        ((6,), BERT | {"x": [{"attn_implementation": "own/kernel"}]}, "'attn_impl.* code to fetch"),
        ((6, 2), BERT, r"takes images or sequences of tokens; a sample here has the shape \(6, 2"),
    ],
)
def test_what_transformers_does_not_take_is_told(shape: Any, arguments: Any, message: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=message):
        huggingface(shape, 2, **arguments)


def test_without_transformers_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r'pip install "loopwright\[transformers\]"'):
        huggingface((6,), 2, "bert", 20)


def package(folder: Path, code: str) -> None:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text("")
    (folder / "torchvision" / "models.py").write_text(code)


@pytest.fixture
def no_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is searched first, for a package in the place of torchvision."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_torchvision_that_is_missing_or_broken_is_told(
    no_torchvision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an error of the declared model, before anything is trained."""
    package(no_torchvision, 'raise RuntimeError("operator torchvision::nms does not exist")')
    declared = {
        "dataset": {"dataset": "digits"},
        "model": {"model": {"type": "torchvision", "name": "resnet18"}},
    }
    pytest.importorskip("sklearn")
    with pytest.raises(ProblemsError, match="cannot be loaded .RuntimeError: operator torchv"):
        Experiment.from_dict(declared).train()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(ConfigurationError, match="torchvision is not installed.*pip install"):
        torchvision((3, 8, 8), 2, "resnet18")


def test_torchvision_models_are_made_without_weights(no_torchvision: Path) -> None:
    """With a package of the same functions, as the real one need not be there."""
    package(
        no_torchvision,
        "from torch import nn\n"
        "def list_models(module=None): return ['tiny']\n"
        "def get_model(name, num_classes): return nn.Linear(3, num_classes)\n",
    )
    made = torchvision((3, 8, 8), 5, "tiny")
    assert isinstance(made, nn.Linear)
    assert made.out_features == 5
    for arguments, message in (
        ({"name": "tinyy"}, "Did you mean 'tiny'"),
        ({"name": "tiny", "weights": "DEFAULT"}, "weights are not fetched"),
        ({"name": "tiny", "pretrained": True}, "weights are not fetched"),
        ({"name": "tiny", "input_shape": (1, 8, 8)}, r"shape \(3, height, width\)"),
    ):
        with pytest.raises(ValueError, match=message):
            torchvision(**{"input_shape": (3, 8, 8), "classes": 5, **arguments})  # type: ignore[arg-type]

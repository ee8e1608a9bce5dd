"""The model zoo: sizes known from the papers, what goes in and comes out, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from loopwright.models import (
    dogs_vs_cats_cnn,
    gpt,
    models,
    resnet,
    tabular_mlp,
    text_cnn,
    transformer_classifier,
)
from loopwright.models.base import left_to_data
from loopwright.seed import preserved_random_states


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with preserved_random_states():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    ("depth", "shape", "classes", "expected"),
    [
        (18, (3, 224, 224), 1000, 11_689_512),
        (34, (3, 224, 224), 1000, 21_797_672),
        (50, (3, 224, 224), 1000, 25_557_032),
        (18, (3, 32, 32), 10, 11_173_962),
    ],
)
def test_residual_networks_have_the_published_sizes(
    depth: Any, shape: tuple[int, int, int], classes: int, expected: int
) -> None:
    with torch.device("meta"):
        model = resnet(shape, classes, depth)
    assert num_parameters(model) == expected


def test_a_small_residual_network_has_nine_layers_with_weights() -> None:
    model = resnet((3, 32, 32), 10, 9)
    assert sum(isinstance(each, nn.Conv2d | nn.Linear) for each in model.modules()) == 9


def test_a_gpt_has_the_published_size() -> None:
    """GPT-2 of 12 layers: 124 million."""
    with torch.device("meta"):
        model = gpt((1024,), 50257, width=768, heads=12, layers=12)
    assert num_parameters(model) == 124_439_808


MODELS: dict[str, tuple[dict[str, Any], torch.Tensor, tuple[int, ...]]] = {
    "resnet": ({"input_shape": (3, 16, 16), "classes": 5, "depth": 9, "width": 4},
               torch.randn(2, 3, 16, 16), (2, 5)),
    "resnet50": ({"input_shape": (1, 70, 80), "classes": 5, "depth": 50, "width": 4},
                 torch.randn(2, 1, 70, 80), (2, 5)),
    "dogs_vs_cats_cnn": ({"input_shape": [20, 24, 3]}, torch.randn(2, 3, 20, 24), (2, 2)),
    "text_cnn": ({"input_shape": (9,), "classes": 4, "vocabulary_size": 11, "embedding": 6},
                 torch.randint(11, (2, 9)), (2, 4)),
    "transformer_classifier": (
        {"input_shape": (9,), "classes": 4, "vocabulary_size": 11, "width": 8, "heads": 2},
        torch.randint(11, (2, 9)), (2, 4)),
    "gpt": ({"input_shape": (9,), "vocabulary_size": 11, "width": 8, "heads": 2, "layers": 2},
            torch.randint(11, (2, 9)), (2, 11, 9)),
    "tabular_mlp": ({"input_shape": (4,), "classes": 3, "categories": [0, 7, 0, 2]},
                    torch.tensor([[0.5, 6, -1, 1], [0.1, 0, 2, 0]]), (2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_part_of_a_model_learns(name: str) -> None:
    arguments, inputs, shape = MODELS[name]
    model = models.get("resnet" if name == "resnet50" else name)(**arguments)
    outputs = model(inputs)
    assert outputs.shape == shape
    targets = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
    cross_entropy(outputs, targets).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [key for key in without if "convolutions" not in key] == []


@pytest.mark.parametrize("name", MODELS)
def test_samples_do_not_mix_when_evaluated(name: str) -> None:
    arguments, inputs, _ = MODELS[name]
    model = models.get("resnet" if name == "resnet50" else name)(**arguments).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(inputs)[:1], model(inputs[:1]))


def test_a_gpt_sees_nothing_of_what_follows() -> None:
    model = gpt((8,), 11, width=8, heads=2, layers=2).eval()
    tokens = torch.randint(11, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 11
    with torch.no_grad():
        first, second = model(tokens), model(changed)
    assert torch.equal(first[:, :, :5], second[:, :, :5])
    assert not torch.equal(first[:, :, 5:], second[:, :, 5:])


def test_a_gpt_learns_and_goes_on() -> None:
    """A sequence that repeats is learnt in a few steps, and gone on with past the length."""
    model = gpt((6,), 4, width=16, heads=2, layers=1)
    data = torch.arange(40) % 4
    inputs, targets = data[:36].view(6, 6), data[1:37].view(6, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert model.generate(torch.tensor([[1, 2]]), 8, temperature=0).tolist() == [
        [1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    ]


def test_draws_of_a_gpt_come_from_its_generator() -> None:
    model = gpt((6,), 4, width=8, heads=2, layers=1)
    state = torch.random.get_rng_state()
    first, second = (
        model.generate(torch.zeros(1, 1, dtype=torch.int64), 9, generator=torch.Generator())
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_padding_changes_nothing() -> None:
    model = transformer_classifier((9,), 3, 11, width=8, heads=2, padding=0).eval()
    tokens = torch.randint(1, 11, (2, 5))
    padded = torch.cat([tokens, torch.zeros(2, 4, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded), model(tokens), rtol=1e-5, atol=1e-6)
        assert model(torch.zeros(1, 9, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet((64,), 3), r"a sample here has the shape \(64,\)"),
        (lambda: resnet((3, 4, 4), 3), "at least 8x8 pixels; these have 4x4"),
        (lambda: text_cnn((2,), 3, 11), "kernels are .3, 4, 5., expected widths from 1 to 2"),
        (lambda: text_cnn((2, 2), 3, 11), "sequences of token numbers"),
        (lambda: transformer_classifier((2,), 3, 11, width=6, heads=4), "does not divide width, 6"),
        (lambda: gpt((2,), 11, dropout=1.0), "dropout is 1.0"),
        (lambda: gpt((2,), 0), "vocabulary_size is 0"),
        (lambda: tabular_mlp((3,), 2, categories=[1]), "categories 1 entries"),
        (lambda: dogs_vs_cats_cnn([10, 10, 3]), "halve 10x10 pixels too often"),
    ],
)
def test_what_does_not_fit_is_told(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_G_28_and_G_29_the_documented_network() -> None:
    """Two classes unless told; the shape is taken as the document writes it, channels last."""
    model = dogs_vs_cats_cnn([100, 100, 3])
    assert model(torch.randn(1, 3, 100, 100)).shape == (1, 2)
    assert num_parameters(model) == num_parameters(dogs_vs_cats_cnn([3, 100, 100]))
    assert left_to_data(dogs_vs_cats_cnn, {}) == ["input_shape"]

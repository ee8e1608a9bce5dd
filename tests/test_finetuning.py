"""Freezing and unfreezing: what trains, what is listed, and what is handed to the optimizer."""

import pytest
import torch
from torch import nn

from loopwright.finetuning import Layer, LayerGroup, ModelFreezer


class Network(nn.Module):
    """Has four layer groups, batch norms at two depths, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.stem = nn.Linear(4, 4)
        self.block = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
        )
        self.attention = nn.MultiheadAttention(4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.stem(x + self.token))
        output: torch.Tensor = self.head(x + self.attention(x, x, x)[0])
        return output


GROUPS = ["stem", "block", "attention", "head"]
NORMS = {"block.1.weight", "block.1.bias", "block.2.0.weight", "block.2.0.bias"}


def frozen(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if not value.requires_grad}


def names_of(model: nn.Module, groups: list[str]) -> set[str]:
    names = {n for n, _ in model.named_parameters() if n.split(".")[0] in groups}
    return names | {"token"} if "stem" in groups else names


@pytest.fixture
def model() -> Network:
    return Network()


def test_a_new_freezer_unfreezes_everything(model: Network) -> None:
    model.requires_grad_(False)
    ModelFreezer(model)
    assert frozen(model) == set()


@pytest.mark.parametrize(
    ("indices", "groups"),
    [
        ((), GROUPS[:3]),
        ((0, 0), GROUPS[:1]),
        ((1, 2), GROUPS[1:3]),
        ((2, 1), GROUPS[1:3]),
        ((0, 3), GROUPS),
        ((-1, -3), GROUPS[1:]),
        ((0, -1), GROUPS),
        ((-1,), GROUPS[2:]),
    ],
)
@pytest.mark.parametrize("freeze_batch_norms", [True, False])
def test_freezing_reaches_every_parameter_of_the_groups(
    model: Network, indices: tuple[int, ...], groups: list[str], freeze_batch_norms: bool
) -> None:
    ModelFreezer(model, freeze_batch_norms=freeze_batch_norms).freeze(*indices)
    expected = names_of(model, groups)
    assert frozen(model) == (expected if freeze_batch_norms else expected - NORMS)


def test_modules_keep_their_mode_by_default(model: Network) -> None:
    ModelFreezer(model).freeze()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("freeze_batch_norms", [True, False])
def test_frozen_modules_can_be_put_in_eval_mode(model: Network, freeze_batch_norms: bool) -> None:
    """Freezing with `set_modules_as_eval` changes the mode and the parameters."""
    freezer = ModelFreezer(model, freeze_batch_norms=freeze_batch_norms)
    freezer.freeze(set_modules_as_eval=True)
    in_eval = {name for name, module in model.named_modules() if not module.training}
    norms = {"block.1", "block.2.0"}
    assert in_eval == {"stem", "block", "block.0", "block.2", "block.2.1", "attention"} | {
        "attention.out_proj"
    } | (norms if freeze_batch_norms else set())
    assert frozen(model) == names_of(model, GROUPS[:3]) - (set() if freeze_batch_norms else NORMS)

    freezer.unfreeze(set_modules_as_training=False)
    assert frozen(model) == set()
    assert {name for name, module in model.named_modules() if not module.training} == in_eval
    freezer.unfreeze()
    assert all(module.training for module in model.modules())


def test_unfreezing_returns_what_was_frozen_as_parameter_groups(model: Network) -> None:
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze(1, 2)
    assert freezer.unfreeze(0, 1) == {1: {"params": list(model.block.parameters())}}
    assert frozen(model) == names_of(model, ["attention"])
    assert freezer.unfreeze() == {2: {"params": list(model.attention.parameters())}}
    assert freezer.unfreeze() == {}


def test_what_unfreezing_returns_goes_into_an_optimizer(model: Network) -> None:
    freezer = ModelFreezer(model)
    freezer.freeze()
    optimizer = torch.optim.SGD(freezer.get_trainable_parameters(), lr=0.1)
    for group in freezer.unfreeze().values():
        optimizer.add_param_group(group)
    held = [id(value) for group in optimizer.param_groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in model.parameters())


def test_what_is_frozen_does_not_learn(model: Network) -> None:
    ModelFreezer(model).freeze()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(
            torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
        ).square().sum().backward()
        optimizer.step()
    after = dict(model.named_parameters())
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == frozen(model) == names_of(model, GROUPS[:3]) - NORMS


def test_layer_groups_are_listed_in_order(model: Network) -> None:
    freezer = ModelFreezer(model)
    freezer.freeze(0, 1)
    assert freezer.get_layer_groups() == [
        LayerGroup((0, -4), model.stem, True),
        LayerGroup((1, -3), model.block, True),
        LayerGroup((2, -2), model.attention, False),
        LayerGroup((3, -1), model.head, False),
    ]
    assert freezer.num_groups == 4


def test_layers_are_listed_in_order(model: Network) -> None:
    """Modules without children, and those that hold parameters beside their children."""
    freezer = ModelFreezer(model)
    freezer.freeze(0, 1, set_modules_as_eval=True)
    assert freezer.get_layers() == [
        Layer((0, -4), model, True),
        Layer((0, -4), model.stem, True),
        Layer((1, -3), model.block[0], True),
        Layer((1, -3), model.block[1], False),
        Layer((1, -3), model.block[2][0], False),
        Layer((1, -3), model.block[2][1], True),
        Layer((2, -2), model.attention, False),
        Layer((2, -2), model.attention.out_proj, False),
        Layer((3, -1), model.head, False),
    ]


def test_trainable_parameters_are_those_not_frozen(model: Network) -> None:
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze()
    expected = [model.head.weight, model.head.bias]
    assert [id(value) for value in freezer.get_trainable_parameters()] == [
        id(value) for value in expected
    ]


def test_a_replaced_head_is_seen(model: Network) -> None:
    freezer = ModelFreezer(model)
    model.head = nn.Linear(4, 9)
    assert freezer.get_layer_groups()[-1].module is model.head


@pytest.mark.parametrize("index", [4, -5])
def test_an_unknown_layer_group_is_an_error(model: Network, index: int) -> None:
    with pytest.raises(ValueError, match=rf"no layer group {index}: Network has 4, -4 to 3 \(stem"):
        ModelFreezer(model).freeze(0, index)
    assert frozen(model) == set()


def test_a_model_without_children_is_an_error() -> None:
    with pytest.raises(ValueError, match="Linear has no child modules"):
        ModelFreezer(nn.Linear(2, 2))

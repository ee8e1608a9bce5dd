"""Tests of optimizers, losses, schedules and metrics by name."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from loopwright.components.losses import losses
from loopwright.components.metrics import build_metric, metrics
from loopwright.components.optimizers import build_optimizer, optimizers
from loopwright.components.schedules import build_schedule, read_placeholder, schedules
from loopwright.datasets import Array, ClassLabel
from loopwright.history import InMemoryRunHistory
from loopwright.placeholders import (
    TrainerPlaceholderValues,
    replace_trainer_placeholder_values,
)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 2))]


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_takes_a_step(name: str) -> None:
    weights = parameters()
    optimizer = build_optimizer(name, {}, weights)
    weights[0].square().sum().backward()
    optimizer.step()
    assert not torch.equal(weights[0], torch.ones(2, 2))


def test_optimizers_are_fused_unless_the_arguments_choose() -> None:
    assert build_optimizer("adamw", {"betas": [0.8, 0.9]}, parameters()).defaults["fused"] is True
    assert not build_optimizer("sgd", {"foreach": True}, parameters()).defaults["fused"]
    assert not build_optimizer("sgd", {"fused": False}, parameters()).defaults["fused"]


@pytest.mark.parametrize("name", [name for name in losses.names() if name != "cross_entropy"])
def test_losses_refuse_what_torch_would_broadcast(name: str) -> None:
    loss = losses.get(name)()
    assert loss(torch.zeros(4, 1), torch.zeros(4, 1)).ndim == 0
    with pytest.raises(ValueError, match=r"\(4, 1\).*\(4,\)"):
        loss(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NUM_EPOCHS", "NUM_EPOCHS"),
        ("2 * NUM_EPOCHS", "(2 * NUM_EPOCHS)"),
        ("0.5*NUM_UPDATE_STEPS_PER_EPOCH", "(0.5 * NUM_UPDATE_STEPS_PER_EPOCH)"),
    ],
)
def test_placeholders_are_read_from_text(text: str, expected: str) -> None:
    assert str(read_placeholder(text)) == expected


@pytest.mark.parametrize("value", ["NUM_EPOCH", "cos", "2 * 3", "__import__('os')", 3, None, []])
def test_anything_else_is_left_as_it_is(value: object) -> None:
    assert read_placeholder(value) is value


def test_a_schedule_is_as_long_as_the_run_unless_told() -> None:
    create = build_schedule("one_cycle", {"max_lr": 0.1})
    assert create.keywords["epochs"] is TrainerPlaceholderValues.NUM_EPOCHS  # type: ignore[attr-defined]
    create = build_schedule("one_cycle", {"max_lr": 0.1, "total_steps": 9})
    assert create.keywords == {"max_lr": 0.1, "total_steps": 9}  # type: ignore[attr-defined]


def test_schedules_that_need_no_argument_or_few_can_be_made() -> None:
    needed = {
        "cosine": {"total_num_epochs": 2, "num_update_steps_per_epoch": 3},
        "warmup_stable_decay": {"num_epochs": 2, "num_update_steps_per_epoch": 30},
        "one_cycle": {"max_lr": 0.1, "total_steps": 9},
        "cosine_annealing": {"T_max": 9},
        "cosine_annealing_warm_restarts": {"T_0": 9},
        "cyclic": {"base_lr": 0.1, "max_lr": 0.2},
        "exponential": {"gamma": 0.9},
        "multi_step": {"milestones": [2]},
        "step": {"step_size": 2},
        "epoch_set": {"schedule": {0: 0.1}},
    }
    run = SimpleNamespace(run_history=InMemoryRunHistory())
    for name in schedules.names():
        optimizer = build_optimizer("sgd", {"momentum": 0.9}, parameters())
        field = "momentum" if name == "triangular_momentum" else "lr"
        create = build_schedule(name, needed.get(name, {}), field=field)
        scheduler = replace_trainer_placeholder_values(run, create)(optimizer)
        optimizer.step()
        scheduler.step()


CLASSES = ClassLabel((), torch.int64, ("a", "b", "c"))


def test_accuracy_counts_every_sample_and_not_the_means_of_batches() -> None:
    accuracy = build_metric("accuracy", {}, CLASSES)
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 2]))
    accuracy.update(torch.eye(3)[:1], torch.tensor([2]))
    assert accuracy.compute().item() == 0.75
    accuracy.reset()
    assert accuracy.compute().isnan()


def test_accuracy_takes_one_hot_labels() -> None:
    accuracy = build_metric("accuracy", {}, CLASSES)
    accuracy.update(torch.eye(3), torch.eye(3)[[0, 1, 1]])
    assert accuracy.compute().item() == pytest.approx(2 / 3)


def test_errors_are_means_over_all_entries() -> None:
    for name, expected in (("mean_absolute_error", 2.0), ("mean_squared_error", 6.0)):
        metric = build_metric(name, {}, Array((1,), torch.float32))
        metric.update(torch.tensor([[1.0], [4.0]]), torch.zeros(2, 1))
        metric.update(torch.tensor([[1.0]]), torch.zeros(1, 1))
        assert metric.compute().item() == pytest.approx(expected)
    assert "mean_squared_error" in metrics

"""The history of a run, and running means of losses."""

import math
from typing import Any

import pytest
import torch

from loopwright.history import (
    InMemoryRunHistory,
    LossTracker,
    RunHistory,
    history_state,
    restore_history,
)


def test_the_interface_is_abstract() -> None:
    """P-81."""
    assert RunHistory.__abstractmethods__ >= {
        "get_metric_names",
        "get_metric_values",
        "get_latest_metric",
        "set_metric_name_prefix",
        "metric_name_prefix",
        "update_metric",
        "delete_metric",
        "current_epoch",
        "reset",
    }


def test_values_are_kept_in_order() -> None:
    """P-82."""
    history = InMemoryRunHistory()
    for value in (3.0, 1.0, 2.0):
        history.update_metric("loss", value)
    assert history.get_metric_names() == {"loss"}
    assert isinstance(history.get_metric_names(), set)
    assert list(history.get_metric_values("loss")) == [3.0, 1.0, 2.0]
    assert history.get_latest_metric("loss") == 2.0
    history.delete_metric("loss")
    history.delete_metric("never there")
    assert history.get_metric_names() == set()


def test_asking_for_an_unknown_metric_does_not_make_it() -> None:
    """P-82, P-83."""
    history = InMemoryRunHistory()
    history.update_metric("eval_loss", 1.0)
    with pytest.raises(ValueError, match="'los'.*Recorded: eval_loss"):
        history.get_latest_metric("los")
    assert list(history.get_metric_values("los")) == []
    assert history.get_metric_names() == {"eval_loss"}


def test_what_is_returned_is_not_the_store() -> None:
    history = InMemoryRunHistory()
    history.update_metric("loss", 1.0)
    history.get_metric_names().add("other")
    values: Any = history.get_metric_values("loss")
    values.append(99.0)
    assert history.get_metric_names() == {"loss"}
    assert history.get_latest_metric("loss") == 1.0


def test_epochs() -> None:
    """P-84."""
    history = InMemoryRunHistory()
    assert history.current_epoch == 1
    history._increment_epoch()
    history.update_metric("loss", 1.0)
    assert history.current_epoch == 2
    history.reset()
    assert (history.current_epoch, history.get_metric_names()) == (1, set())


def test_a_prefix_goes_before_names_recorded_afterwards() -> None:
    """P-85."""
    history = InMemoryRunHistory()
    history.update_metric("loss", 1.0)
    history.set_metric_name_prefix("ema_")
    assert history.metric_name_prefix == "ema_"
    history.update_metric("loss", 2.0)
    history.set_metric_name_prefix()
    history.update_metric("loss", 3.0)
    assert history_state(history) == {"loss": [1.0, 3.0], "ema_loss": [2.0]}


def test_a_history_can_be_restored() -> None:
    history = InMemoryRunHistory()
    history.set_metric_name_prefix("x_")
    history.update_metric("loss", 9.0)
    restore_history(history, {"loss": [1.0, 2.0]}, epoch=3)
    assert history_state(history) == {"loss": [1.0, 2.0]}
    assert (history.current_epoch, history.metric_name_prefix) == (3, "x_")


@pytest.mark.parametrize("kind", ["float", "float32", "float64", "bfloat16", "tensor counts"])
def test_the_mean_is_over_samples(kind: str) -> None:
    """P-47: batches weighed by their sizes, summed in double precision."""
    tracker = LossTracker()
    losses, counts = [0.5, 2.0, 1.0], [4, 1, 3]
    for loss, count in zip(losses, counts, strict=True):
        if kind == "float":
            tracker.update(loss, count)
        elif kind == "tensor counts":
            tracker.update(torch.tensor(loss), torch.tensor(count))
        else:
            tracker.update(torch.tensor(loss, dtype=getattr(torch, kind)), count)
    assert tracker.average == pytest.approx(7.0 / 8, rel=1e-15)
    assert float(tracker.loss_value) == 1.0
    assert float(tracker.running_count) == 8
    tracker.reset()
    assert tracker.average == 0.0


def test_many_small_losses_are_not_lost() -> None:
    """A sum in float32 would be off in the fourth digit."""
    tracker = LossTracker()
    for _ in range(20_000):
        tracker.update(torch.tensor(0.1), 1000)
    assert tracker.average == pytest.approx(torch.tensor(0.1).item(), rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_loss_that_is_not_finite_stays_visible(bad: float, as_tensor: bool) -> None:
    tracker = LossTracker()
    for loss in (1.0, bad, 1.0):
        tracker.update(torch.tensor(loss) if as_tensor else loss, 2)
    assert not math.isfinite(tracker.average)


def test_the_default_count_is_one() -> None:
    tracker = LossTracker()
    tracker.update(1.0)
    tracker.update(2.0)
    assert tracker.average == 1.5

"""Ending training early: when exactly, and going on counting after a checkpoint (A-97, A-98)."""

from typing import Any

import pytest
from loops import make_loop

from loopwright.loop_callbacks import (
    AbstractCallback,
    EarlyStopping,
    TerminateOnNaN,
    ThresholdEarlyStopping,
)


class Values(AbstractCallback):
    """Records given values, one per epoch; None records nothing."""

    def __init__(self, name: str, values: list[float | None]) -> None:
        super().__init__("values")
        self.name = name
        self.values = values

    def on_epoch_end(self) -> None:
        value = self.values[self.train_loop_obj.epoch]
        if value is not None:
            self.train_loop_obj.insert_metric_result_into_history(self.name, value)


def epochs_with(callback: Any, name: str, values: list[float | None]) -> int:
    """Return how many epochs are trained when a metric takes these values."""
    loop = make_loop(end_auto_eval=False)
    loop.fit(num_epochs=len(values), callbacks=[callback, Values(name, values)])
    return len(loop.train_history["accumulated_loss"])


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values", "options", "expected"),
    [
        ("my_loss", [3, 2, 2, 1], {}, 3),
        ("my_loss", [3, 2, 2.5, 2.5, 1, 0], {"patience": 1}, 4),
        ("my_loss", [3, 2, 2.5, 1, 1.5, 1.2, 0], {"patience": 1}, 6),
        ("my_loss", [3, 2.9, 2.8], {"min_delta": 0.15}, 2),
        ("my_loss", [3, 2, 1, 0.5], {"min_delta": 0.1}, 4),
        ("Error_rate", [3, 4, 5], {}, 2),
        ("val_Accuracy", [0.1, 0.2, 0.2, 0.9], {}, 3),
        ("val_Accuracy", [0.1, 0.2, 0.3, 0.4], {}, 4),
        ("my_loss", [3, NAN, 1], {}, 2),
        ("my_loss", [NAN, 2, 1], {}, 3),
        ("my_loss", [3, None, None, 4, 5], {}, 4),
    ],
)
def test_a97_training_ends_after_patience_and_one_more(
    name: str, values: list[float | None], options: dict[str, Any], expected: int
) -> None:
    assert epochs_with(EarlyStopping(name, **options), name, values) == expected


def test_a97_the_defaults_watch_the_validation_loss() -> None:
    callback = EarlyStopping()
    assert (callback.monitor, callback.min_delta, callback.patience) == ("val_loss", 0.0, 0)
    loop = make_loop(lr=0.0)
    loop.fit(num_epochs=9, callbacks=[callback])
    assert loop.train_history["val_loss"][0] != 0
    assert len(loop.train_history["val_loss"]) <= 9


@pytest.mark.parametrize(
    ("name", "values", "threshold", "patience", "expected"),
    [
        ("my_loss", [1, 2, 1, 3], 1.5, 0, 2),
        ("my_loss", [2, 1, 2, 2, 1], 1.5, 1, 4),
        ("val_Accuracy", [0.9, 0.5, 0.9], 0.6, 0, 2),
        ("val_Accuracy", [0.6, 0.7, 0.6], 0.6, 0, 3),
    ],
)
def test_a98_training_ends_where_a_threshold_is_not_reached(
    name: str, values: list[float | None], threshold: float, patience: int, expected: int
) -> None:
    assert epochs_with(ThresholdEarlyStopping(name, threshold, patience), name, values) == expected


@pytest.mark.parametrize("value", [NAN, float("inf"), float("-inf")])
def test_a98_training_ends_when_a_metric_is_not_finite(
    value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert epochs_with(TerminateOnNaN("my_loss"), "my_loss", [1.0, value, 1.0]) == 2
    assert f"TerminateOnNaN: training ends after epoch 1: my_loss is {value}" in (
        capsys.readouterr().out
    )
    assert TerminateOnNaN().monitor == "loss"


def test_a_metric_that_was_never_recorded_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"EarlyStopping watches 'val_los', .* Recorded: accumulated_loss"
    ):
        make_loop(end_auto_eval=False).fit(num_epochs=1, callbacks=[EarlyStopping("val_los")])


def test_a96_they_run_after_the_callbacks_that_evaluate() -> None:
    assert EarlyStopping().execution_order == 99
    assert ThresholdEarlyStopping("loss", 1.0).execution_order == 99


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping("my_loss", patience=2),
        lambda: ThresholdEarlyStopping("my_loss", 1.0, patience=2),
    ],
)
def test_counts_go_on_from_a_checkpoint(make: Any) -> None:
    """Stopped after two epochs and continued, training ends in the same epoch."""
    values: list[float | None] = [2, 3, 4, 5, 6, 7]
    unbroken = make_loop(end_auto_eval=False)
    unbroken.fit(num_epochs=6, callbacks=[make(), Values("my_loss", values)])
    first = make_loop(end_auto_eval=False)
    first.fit(num_epochs=2, callbacks=[make(), Values("my_loss", values)])
    second = make_loop(end_auto_eval=False)
    second.continue_from(first.checkpoint_content())
    second.fit(num_epochs=6, callbacks=[make(), Values("my_loss", values)])
    assert second.train_history["my_loss"] == unbroken.train_history["my_loss"]
    assert len(second.train_history["my_loss"]) in (3, 4)

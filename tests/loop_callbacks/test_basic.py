"""Callbacks that list, run functions, take a few batches, or look at predictions (A-98)."""

from typing import Any

import pytest
import torch
from loops import Recorder, TinyModel, make_loop

from loopwright.loop_callbacks import (
    AllPredictionsSame,
    DataSubsetTestRun,
    DistributedSamplerSetEpoch,
    FunctionOnTrainLoop,
    InMultiProcessDataLoad,
    ListRegisteredCallbacks,
)


def test_the_callbacks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    make_loop().fit(num_epochs=1, callbacks=[ListRegisteredCallbacks(), Recorder()])
    assert "Callbacks:\n    List of callbacks, order 0\n    recorder" in capsys.readouterr().out


def test_a_function_is_called_at_the_chosen_moments() -> None:
    """One epoch of four batches, in updates of two."""
    counts = dict.fromkeys(
        (
            "tl_registration",
            "train_begin",
            "epoch_begin",
            "batch_begin",
            "after_gradient_update",
            "after_optimizer_step",
            "batch_end",
            "epoch_end",
            "train_end",
        ),
        0,
    )

    def counting(moment: str) -> Any:
        def count(loop: Any) -> None:
            assert hasattr(loop, "train_history")
            counts[moment] += 1

        return FunctionOnTrainLoop(count, **{moment: True})

    make_loop().fit(num_epochs=1, callbacks=[counting(m) for m in counts], grad_accumulation=2)
    assert list(counts.values()) == [1, 1, 1, 4, 2, 2, 4, 1, 1]


def test_a_function_for_epochs_asks_for_no_gradients() -> None:
    loop = make_loop()
    loop.fit(num_epochs=1, callbacks=[FunctionOnTrainLoop(print, epoch_begin=False)])
    assert not loop.grad_cb_used


def test_the_first_batches_are_taken() -> None:
    loop, recorder = make_loop(), Recorder()
    loop.fit(num_epochs=2, callbacks=[recorder, DataSubsetTestRun(2, 1)])
    assert recorder.names.count("batch end") == 4
    assert len(loop.validation_loader) == 1
    assert len(loop.train_history["val_loss"]) == 2


def test_batches_are_taken_from_loaders_that_are_there() -> None:
    with pytest.raises(ValueError, match="no test_loader to take 1 batches from"):
        make_loop().fit(num_epochs=1, callbacks=[DataSubsetTestRun(1, 1, 1)])
    with pytest.raises(ValueError, match="expected 1 or more for training"):
        DataSubsetTestRun(0)


class Constant(TinyModel):
    """Predicts one value."""

    def get_predictions(self, batch_data: Any, device: Any) -> Any:
        return torch.full((len(batch_data[0]),), 2), batch_data[1], None


@pytest.mark.parametrize(("value", "stop", "epochs"), [(2, True, 1), (2, False, 2), (0, True, 2)])
def test_a98_all_predictions_the_same(
    value: float, stop: bool, epochs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = make_loop(model=Constant())
    loop.fit(num_epochs=2, callbacks=[AllPredictionsSame(value, stop_training=stop)])
    assert len(loop.train_history["loss"]) == epochs
    told = f"Every prediction for the validation data is {value}" in capsys.readouterr().out
    assert told == (value == 2)


def test_samplers_learn_the_epoch() -> None:
    class Sampler:
        def __init__(self) -> None:
            self.epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    sampler = Sampler()
    callback = DistributedSamplerSetEpoch(sampler, None, None)
    assert callback.execution_order < 0
    make_loop().fit(num_epochs=3, callbacks=[callback])
    assert sampler.epochs == [0, 1, 2]


def test_loaders_are_made_where_a_process_starts() -> None:
    loop = make_loop()
    given = loop.validation_loader
    callback = InMultiProcessDataLoad(lambda: [1], None, lambda: [2])
    loop.callbacks_handler.register_callbacks([callback])
    loop.callbacks_handler.execute("on_multiprocess_start")
    assert (loop.train_loader, loop.validation_loader, loop.test_loader) == ([1], given, [2])

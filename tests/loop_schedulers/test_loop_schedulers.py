"""Schedulers step when they should, with the rates of a plain PyTorch loop (A-104, A-105)."""

import math
from typing import Any

import pytest
import torch
from loops import Recorder, TinyModel, TwoHeads, adam, make_loop
from torch.optim import lr_scheduler

from loopwright.loop_callbacks import AbstractCallback
from loopwright.loop_schedulers import (
    ConstantWithWarmupScheduler,
    CosineWithWarmupScheduler,
    GeneralLRSchedulerCallback,
    HardRestartsCosineWithWarmupScheduler,
    LambdaLRScheduler,
    LinearWithWarmupScheduler,
    MultiStepLRScheduler,
    ReduceLROnPlateauMetricScheduler,
    ReduceLROnPlateauScheduler,
    StepLRScheduler,
)

RATE = 0.05


def rate(loop: Any) -> float:
    return float(loop.optimizer.param_groups[0]["lr"])


def rates(scheduler: Any, num_epochs: int = 3, *, accumulation: int = 1, **options: Any) -> Any:
    """Return the rate of each update, and of each epoch's end, over 4 batches per epoch."""
    updates: list[float] = []

    class Updates(AbstractCallback):
        def on_train_loop_registration(self) -> None:
            self.train_loop_obj.grad_cb_used = True

        def on_after_gradient_update(self, optimizer_idx: int) -> None:
            updates.append(rate(self.train_loop_obj))

    recorder = Recorder(rate, execution_order=50)
    loop = make_loop(**options)
    callbacks = [Updates("updates"), scheduler, recorder]
    loop.fit(num_epochs=num_epochs, callbacks=callbacks, grad_accumulation=accumulation)
    return updates, [value for name, value in recorder.calls if name == "epoch end"]


def plain(make: Any, steps: int) -> list[float]:
    """Return the rates of a scheduler that is stepped by hand."""
    optimizer = adam(TinyModel(), RATE)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("scheduler", "make"),
    [
        (StepLRScheduler(2, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5)),
        (
            MultiStepLRScheduler([1, 3], gamma=0.1),
            lambda o: lr_scheduler.MultiStepLR(o, [1, 3], gamma=0.1),
        ),
        (
            LambdaLRScheduler(lambda epoch: 0.9**epoch),
            lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
        ),
        (
            GeneralLRSchedulerCallback(lr_scheduler.ExponentialLR, gamma=0.7),
            lambda o: lr_scheduler.ExponentialLR(o, gamma=0.7),
        ),
    ],
)
def test_a105_schedulers_step_after_each_epoch(scheduler: Any, make: Any) -> None:
    updates, ends = rates(scheduler, num_epochs=4)
    expected = plain(make, 5)
    assert updates == [value for value in expected[:4] for _ in range(4)]
    assert ends == expected[1:]


@pytest.mark.parametrize(
    ("scheduler", "factor"),
    [
        (ConstantWithWarmupScheduler(4), lambda step: min(1, step / 4)),
        (
            LinearWithWarmupScheduler(4, 12),
            lambda step: step / 4 if step < 4 else (12 - step) / 8,
        ),
        (
            CosineWithWarmupScheduler(4, 12),
            lambda step: step / 4 if step < 4 else (1 + math.cos(math.pi * (step - 4) / 8)) / 2,
        ),
        (
            HardRestartsCosineWithWarmupScheduler(4, 12, num_cycles=2),
            lambda step: (
                step / 4 if step < 4 else (1 + math.cos(math.pi * ((step - 4) % 4) / 4)) / 2
            ),
        ),
    ],
)
def test_a104_a105_warmups_step_after_each_update(scheduler: Any, factor: Any) -> None:
    updates, _ = rates(scheduler, num_epochs=3)
    assert updates == pytest.approx([RATE * factor(step) for step in range(12)], abs=1e-15)


def test_a105_warmups_count_updates_and_not_batches() -> None:
    """Four batches in updates of three: two updates per epoch."""
    updates, ends = rates(ConstantWithWarmupScheduler(4), num_epochs=3, accumulation=3)
    assert updates == pytest.approx([RATE * f for f in (0, 0.25, 0.5, 0.75, 1, 1)])
    assert ends == pytest.approx([RATE * f for f in (0.5, 1, 1)])


def test_warmups_end_at_zero_and_stay() -> None:
    updates, _ = rates(HardRestartsCosineWithWarmupScheduler(0, 6), num_epochs=2)
    assert updates[-2:] == [0.0, 0.0]
    assert rates(LinearWithWarmupScheduler(0, 6), num_epochs=2)[0][-2:] == [0.0, 0.0]


def test_one_of_several_optimizers_is_followed() -> None:
    """Each scheduler steps after the updates of its own optimizer only."""
    loop = make_loop(model=TwoHeads())
    first, second = (
        ConstantWithWarmupScheduler(8, optimizer_idx=0),
        StepLRScheduler(1, optimizer_idx=loop.optimizer[1], gamma=0.5),
    )
    loop.fit(num_epochs=1, callbacks=[first, second])
    assert loop.optimizer[0].param_groups[0]["lr"] == pytest.approx(RATE * 4 / 8)
    assert loop.optimizer[1].param_groups[0]["lr"] == pytest.approx(RATE * 0.5)


def test_a_scheduler_says_which_optimizers_there_are() -> None:
    loop = make_loop(model=TwoHeads())
    with pytest.raises(ValueError, match="The loop has 2 optimizers. Give optimizer_idx"):
        loop.fit(num_epochs=1, callbacks=[StepLRScheduler(1)])
    with pytest.raises(ValueError, match=r"optimizer_idx is 2, .* from 0 to 1"):
        loop.fit(num_epochs=1, callbacks=[StepLRScheduler(1, optimizer_idx=2)])
    other = torch.optim.SGD(TinyModel().parameters(), lr=1)
    with pytest.raises(ValueError, match="optimizer_idx is SGD"):
        make_loop().fit(num_epochs=1, callbacks=[StepLRScheduler(1, optimizer_idx=other)])


def test_a104_the_plateau_of_the_validation_loss() -> None:
    """The rate falls where torch's scheduler, fed with the recorded losses, lets it fall."""
    scheduler = ReduceLROnPlateauScheduler(patience=0, threshold=0.5, factor=0.1)
    recorder = Recorder(rate, execution_order=50)
    loop = make_loop()
    loop.fit(num_epochs=4, callbacks=[scheduler, recorder])
    optimizer = adam(TinyModel(), RATE)
    reference = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5, factor=0.1)
    expected = []
    for loss in loop.train_history["val_loss"]:
        reference.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    assert [value for name, value in recorder.calls if name == "epoch end"] == expected
    assert expected[-1] < RATE


def test_a104_the_plateau_of_several_losses() -> None:
    loop = make_loop(model=TwoHeads())
    seen: list[float] = []
    schedulers: list[Any] = [
        ReduceLROnPlateauScheduler(optimizer_idx=0),
        ReduceLROnPlateauScheduler("second", optimizer_idx=1),
    ]
    loop.callbacks_handler.register_callbacks(schedulers)
    for scheduler in schedulers:
        scheduler.scheduler.step = seen.append
    loop.fit(num_epochs=1)
    first, second = (loop.train_history[f"val_loss_{name}"][0] for name in ("first", "second"))
    assert seen == pytest.approx([(first + second) / 2, second])
    schedulers[1].main_multi_loss = "third"
    with pytest.raises(ValueError, match="main_multi_loss is 'third'; the losses are first, sec"):
        schedulers[1].on_epoch_end()


def test_a104_the_plateau_of_a_metric() -> None:
    class Metric(AbstractCallback):
        def on_epoch_end(self) -> None:
            self.train_loop_obj.insert_metric_result_into_history("score", 1.0)

    scheduler = ReduceLROnPlateauMetricScheduler("score", mode="max", patience=0, factor=0.1)
    loop = make_loop()
    loop.fit(num_epochs=2, callbacks=[scheduler, Metric("metric")])
    assert rate(loop) == pytest.approx(RATE * 0.1)
    with pytest.raises(ValueError, match=r"follows 'other', which is not in .* loss, accum"):
        make_loop().fit(num_epochs=1, callbacks=[ReduceLROnPlateauMetricScheduler("other")])


def test_a_plateau_needs_validation_data() -> None:
    with pytest.raises(ValueError, match="the loop has no validation loader"):
        make_loop(val=None).fit(num_epochs=1, callbacks=[ReduceLROnPlateauScheduler()])


def test_a44_a63_schedulers_are_listed_and_their_states_go_on() -> None:
    def schedulers() -> list[Any]:
        return [StepLRScheduler(2), CosineWithWarmupScheduler(2, 16), ReduceLROnPlateauScheduler()]

    loop = make_loop()
    loop.fit(num_epochs=1, callbacks=schedulers())
    states = loop.checkpoint_content()["schedulers_state_dict"]
    assert [each.state_dict() for each in loop.get_schedulers()] == states
    again = make_loop()
    again.callbacks_handler.register_callbacks(schedulers())
    for scheduler, state in zip(again.get_schedulers(), states, strict=True):
        scheduler.load_state_dict(state)
    assert again.get_schedulers()[1].scheduler.last_epoch == 4

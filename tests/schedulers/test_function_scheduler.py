"""Schedule functions in a run: when they see which iteration, epoch and accuracy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same, tiny_data, tiny_trainer, weights
from torch import nn

from loopwright.components.schedules import build_schedule
from loopwright.events import TrainerCallback
from loopwright.history import InMemoryRunHistory
from loopwright.schedulers import (
    DecayWhenAcc,
    EpochSet,
    FunctionScheduler,
    InvTriangular,
    Triangular,
    TriangularMomentum,
    all_of,
    function_schedule,
)


class Watch(TrainerCallback):
    """Notes a field of the optimizer as each update uses it, and records an accuracy."""

    def __init__(self, field: str = "lr", accuracies: list[float] | None = None) -> None:
        self.field = field
        self.accuracies = accuracies or []
        self.seen: list[Any] = []

    def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
        value = trainer.optimizer.param_groups[0][self.field]
        self.seen.append(round(float(value), 9) if not isinstance(value, tuple) else value)

    def on_eval_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
        epoch = trainer.run_history.current_epoch - 1
        trainer.run_history.update_metric("accuracy", self.accuracies[epoch])


def run(create: Any, watch: Watch, num_epochs: int = 2, **options: Any) -> Any:
    trainer = tiny_trainer(callbacks=[watch])
    data = tiny_data(12)
    if watch.accuracies:
        options["eval_dataset"] = data
    trainer.train(data, num_epochs, per_device_batch_size=4, create_scheduler_fn=create, **options)
    return trainer


def test_each_update_uses_the_value_of_its_iteration() -> None:
    watch = Watch()
    function = Triangular(lr_min=0.1, lr_max=0.4, stepsize=3, lr_history_size=100)
    run(function_schedule(function), watch)
    assert watch.seen == [0.1, 0.2, 0.3, 0.4, 0.3, 0.2]
    assert function.lr_history.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.3, 0.2, 0.1])


def test_the_first_update_of_an_epoch_sees_its_number() -> None:
    watch = Watch()
    run(function_schedule(EpochSet({0: 0.4, 1: 0.5, 2: 0.1})), watch, 3)
    assert watch.seen == [0.4] * 3 + [0.2] * 3 + [0.02] * 3


def test_the_first_update_of_an_epoch_sees_the_accuracy_before_it() -> None:
    watch = Watch(accuracies=[0.5, 0.4, 0.5])
    run(function_schedule(DecayWhenAcc(initial_lr=0.2, lr_decay=0.5)), watch, 3)
    assert watch.seen == [0.2] * 6 + [0.1] * 3


def test_a_run_without_the_accuracy_says_so() -> None:
    with pytest.raises(ValueError, match="follows the metric 'accuracy', and none was recorded"):
        run(function_schedule(DecayWhenAcc()), Watch())


def test_any_function_can_be_a_schedule() -> None:
    watch = Watch(accuracies=[0.5, 0.25])

    def function(iteration: int, epoch: int, accuracy: Any) -> float:
        return iteration + 10 * epoch + sum(accuracy)

    run(function_schedule(function), watch)
    assert watch.seen == [0, 1, 2, 13.5, 14.5, 15.5]


def test_rate_and_momentum_together() -> None:
    watch = Watch("momentum")
    rate = function_schedule(Triangular(lr_min=0.0, lr_max=0.2, stepsize=2))
    momentum = TriangularMomentum(mtm_min=0.5, mtm_max=0.9, stepsize=2)
    trainer = run(all_of(rate, function_schedule(momentum, field="momentum")), watch)
    assert watch.seen == [0.9, 0.7, 0.5, 0.7, 0.9, 0.7]
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_the_momentum_of_adam_is_its_first_beta() -> None:
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters(), betas=(0.9, 0.99))
    function = TriangularMomentum(mtm_min=0.5, mtm_max=0.9, stepsize=2)
    scheduler = FunctionScheduler(optimizer, function, field="momentum")
    seen = [optimizer.param_groups[0]["betas"]]
    for _ in range(2):
        scheduler.step()
        seen.append(optimizer.param_groups[0]["betas"])
    assert seen == [(0.9, 0.99), (pytest.approx(0.7), 0.99), (0.5, 0.99)]


def test_an_optimizer_without_momentum_is_refused() -> None:
    optimizer = torch.optim.Adagrad(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="Adagrad has no momentum"):
        FunctionScheduler(optimizer, TriangularMomentum(), field="momentum")


def test_every_group_gets_the_value_and_tensors_stay() -> None:
    layers = nn.Linear(2, 2), nn.Linear(2, 2)
    rate = torch.tensor(1.0)
    groups = [{"params": layers[0].parameters()}, {"params": layers[1].parameters(), "lr": rate}]
    optimizer = torch.optim.Adam(groups, lr=5.0)
    scheduler = FunctionScheduler(optimizer, InvTriangular(lr_min=0.0, lr_max=1.0, stepsize=2))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[1]["lr"] is rate
    assert rate.item() == 0.5


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    """The functions have no state: a run resumed inside an epoch ends with the same bits."""

    def create() -> Any:
        decay = DecayWhenAcc(initial_lr=0.2, lr_decay=0.5)
        momentum = TriangularMomentum(mtm_min=0.5, stepsize=2)
        return all_of(function_schedule(decay), function_schedule(momentum, field="momentum"))

    class Save(Watch):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            super().on_train_step_start(trainer)
            if trainer.progress.step == 7:
                trainer.save_training_state(tmp_path / "state")

    whole, rest = Save(accuracies=[0.5, 0.4, 0.5]), Watch(accuracies=[0.5, 0.4, 0.5])
    expected = weights(run(create(), whole, 3))
    resumed = run(create(), rest, 3, resume_from=tmp_path / "state")
    assert same(expected, weights(resumed))
    assert rest.seen == whole.seen[7:]


def test_by_name_with_placeholders_filled_in() -> None:
    watch = Watch()
    arguments = {"lr_min": 0.1, "lr_max": 0.4, "stepsize": "NUM_UPDATE_STEPS_PER_EPOCH"}
    run(build_schedule("triangular", arguments), watch)
    assert watch.seen == [0.1, 0.2, 0.3, 0.4, 0.3, 0.2]


def test_momentum_by_name() -> None:
    create = build_schedule("inverse_triangular", {"stepsize": 2}, field="momentum")
    watch = Watch("momentum")
    trainer = run(create, watch)
    assert watch.seen[:3] == [1.0, 0.50005, 0.0001]
    assert trainer.optimizer.param_groups[0]["lr"] == 0.1
    with pytest.raises(ValueError, match="name it in momentum_schedule"):
        build_schedule("triangular_momentum", {})
    with pytest.raises(ValueError, match=r"StepLR schedules the learning rate.*triangular"):
        build_schedule("step", {"step_size": 2}, field="momentum")


def test_epochs_are_counted_by_the_history() -> None:
    history = InMemoryRunHistory()
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    scheduler = FunctionScheduler(optimizer, EpochSet({0: 1.0, 1: 0.5}), history=history)
    history._increment_epoch()
    scheduler.begin_epoch()
    assert optimizer.param_groups[0]["lr"] == 0.5

"""The search for a learning rate: what it measures, chooses and leaves alone."""

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import global_states, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn

from loopwright.errors import CheckpointError, NotSupportedError
from loopwright.loaders import EpochLoader
from loopwright.rate_finder import LogFinder, LRFinder, lr_finder_auto_load
from loopwright.rate_selection import SELECTIONS, Curve, select_laplace, select_sobel
from loopwright.seed import set_seed
from loopwright.trainer import Trainer
from loopwright.trainers import ClassificationTrainer


def classifier(**options: Any) -> ClassificationTrainer:
    options = {"train_dataset": tiny_data(24), "val_dataset": tiny_data(9)} | options
    options = {"batch_size": 4, "verbose": False, "seed": 3, "save_every": 0} | options
    return ClassificationTrainer(tiny_model(dropout=0.3), **options, save_hist=False)


def test_defaults() -> None:
    """L-94."""
    finder = LogFinder(classifier())
    expected = {
        "lr_min": 1e-6,
        "lr_max": 1.0,
        "num_epochs": 8,
        "explode_thresh": 4.0,
        "beta": 0.999,
        "lr_select_method": "max_acc",
        "max_batches": 0,
        "acc_test": True,
        "print_every": 20,
    }
    assert {name: getattr(finder, name) for name in expected} == expected


def test_rates_rise_geometrically_from_first_to_last() -> None:
    """L-94, L-96: one rate per batch, and an accuracy after each."""
    finder = LogFinder(classifier(), num_epochs=2, lr_min=1e-4, lr_max=1e-1)
    low, high = finder.find()
    assert finder.get_lr_history() == pytest.approx(np.geomspace(1e-4, 1e-1, 12).tolist())
    assert len(finder.smooth_loss_history) == len(finder.acc_history) == 12
    assert (low, high) == (high / 10, finder.lr_history[int(np.argmax(finder.acc_history))])


def test_it_measures_what_a_plain_loop_does() -> None:
    """L-96: the same losses, smoothed, and the accuracy after each update."""
    trainer = ClassificationTrainer(
        tiny_model(),
        optim_function="SGD",
        train_dataset=tiny_data(24),
        val_dataset=tiny_data(9),
        batch_size=4,
        shuffle=False,
        momentum=0.9,
        weight_decay=0.0,
    )
    finder = LogFinder(trainer, num_epochs=1, lr_min=1e-3, lr_max=1.0, beta=0.9)
    finder.find()
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, fused=True)
    average, smooth, accuracy = 0.0, [], []
    batches = zip(*(column.split(4) for column in tiny_data(24)), strict=True)
    for n, (inputs, targets) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 1e-3 * 1000 ** (n / 5)
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average = 0.9 * average + 0.1 * loss.item()
        smooth.append(average / (1 - 0.9 ** (n + 1)))
        x, y = tiny_data(9)
        accuracy.append(float((model(x).argmax(1) == y).double().mean()))
    assert finder.smooth_loss_history == pytest.approx(smooth, rel=1e-6)
    assert finder.acc_history == pytest.approx(accuracy)


def test_it_stops_when_the_loss_explodes() -> None:
    """L-96."""
    trainer = classifier(optim_function="SGD")
    finder = LogFinder(trainer, lr_min=1e-3, lr_max=1e6, beta=0.0, explode_thresh=4.0)
    finder.find()
    *before, last = finder.smooth_loss_history
    assert len(before) < 47
    assert last > 4 * min(before)
    assert all(loss <= 4 * min(before[: n + 1]) for n, loss in enumerate(before))
    assert len(finder.acc_history) == len(finder.lr_history)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    trainer = classifier(optim_function="SGD", loss_function=lambda x, y: x.mean() / 0 * len(y))
    finder = LogFinder(trainer)
    with pytest.raises(ValueError, match="LogFinder has no history"):
        finder.find()


@pytest.mark.parametrize("most", [5, 100])
def test_max_batches(most: int) -> None:
    """L-94."""
    finder = LogFinder(classifier(), num_epochs=2, max_batches=most, acc_test=False)
    finder.lr_select_method = "min_loss"
    finder.find()
    assert len(finder.lr_history) == min(most, 12)
    assert finder.lr_history[-1] == pytest.approx(1.0)
    assert finder.acc_history == []


def test_it_needs_data() -> None:
    """L-95."""
    with pytest.raises(ValueError, match="Give train_dataset"):
        LogFinder(classifier(train_dataset=None)).find()
    with pytest.raises(ValueError, match="needs validation data"):
        LogFinder(classifier(val_dataset=None)).find()
    with pytest.raises(ValueError, match="Give train_dataset"):
        LogFinder().find()


def state_of(trainer: Any) -> Any:
    """Return copies of all that a search must not change."""
    model, optimizer = trainer.model, trainer.optimizer
    tensors = [*model.parameters(), *model.buffers()]
    gradients = [p.grad for p in model.parameters()]
    inner = trainer.trainer if isinstance(trainer, ClassificationTrainer) else trainer
    return copy.deepcopy(
        {
            "tensors": [tensor.detach() for tensor in tensors],
            "gradients": [g for g in gradients if g is not None],
            "modes": [module.training for module in model.modules()],
            "trained": [p.requires_grad for p in model.parameters()],
            "optimizer": optimizer.state_dict(),
            "history": {n: inner.run_history.get_metric_values(n) for n in sorted(names_in(inner))},
            "epoch": inner.run_history.current_epoch,
            "progress": inner.progress,
            "random": global_states(),
        }
    )


def names_in(trainer: Any) -> set[str]:
    names: set[str] = trainer.run_history.get_metric_names()
    return names


def assert_same(before: Any, after: Any) -> None:
    for name in ("tensors", "gradients"):
        assert same(before.pop(name), after.pop(name))
    optimizers = before.pop("optimizer"), after.pop("optimizer")
    assert pickle.dumps(before) == pickle.dumps(after) or before == after
    assert optimizers[0]["param_groups"] == optimizers[1]["param_groups"]
    states = [[v for s in o["state"].values() for v in s.values()] for o in optimizers]
    assert len(states[0]) == len(states[1])
    assert same(*states)


@pytest.mark.parametrize("method", SELECTIONS)
def test_nothing_changes(method: str) -> None:
    """L-97, L-98: weights, optimizer, random state, history and order stay, to the bit."""
    set_seed(5)
    trainer, undisturbed = classifier(num_epochs=2), classifier(num_epochs=2)
    for each in (trainer, undisturbed):
        set_seed(5)
        each.model.append(nn.BatchNorm1d(3))
        each.optimizer.add_param_group({"params": each.model[-1].parameters()})
        each.train()
    next(trainer.model.parameters()).grad = torch.ones(5, 3)
    before = state_of(trainer)
    arrays = trainer.history_values()
    low, high = LogFinder(trainer, num_epochs=1, lr_select_method=method).find()
    assert 0 < low < high <= 1
    assert_same(before, state_of(trainer))
    assert trainer.history_values() == arrays
    next(trainer.model.parameters()).grad = None
    for each in (trainer, undisturbed):
        set_seed(6)
        each.set_num_epochs(4)
        each.train()
    assert same(weights(undisturbed), weights(trainer))
    assert same(undisturbed.model.buffers(), trainer.model.buffers())
    losses = trainer.get_loss_history(), undisturbed.get_loss_history()
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[0].tolist() == losses[1].tolist()


def test_nothing_changes_when_it_fails() -> None:
    """L-97."""

    class Fails(ClassificationTrainer):
        asked = 0

        def calculate_batch_loss(self, batch: Any) -> dict[str, Any]:
            Fails.asked += 1
            if Fails.asked == 9:
                raise KeyError("in the middle")
            return super().calculate_batch_loss(batch)

    trainer = Fails(tiny_model(), train_dataset=tiny_data(24), val_dataset=tiny_data(9), seed=1)
    before = state_of(trainer)
    with pytest.raises(KeyError, match="in the middle"):
        LogFinder(trainer, batch_size=4).find()
    assert_same(before, state_of(trainer))


def test_a_trainer_in_use_stays_as_it_is() -> None:
    """L-97: a Trainer that has trained, its loader's order included."""
    trainer = tiny_trainer(model=tiny_model(dropout=0.5))
    trainer.train(tiny_data(24), 2, per_device_batch_size=4)
    loader: EpochLoader = trainer._train_dataloader
    before, order = state_of(trainer), [batch[0].clone() for batch in loader]
    finder = LogFinder(trainer, train_dataset=tiny_data(24), val_dataset=tiny_data(9), num_epochs=1)
    finder.find()
    assert finder.lr_history
    assert_same(before, state_of(trainer))
    assert trainer._train_dataloader is loader
    assert same(order, [batch[0] for batch in loader])


def test_the_hooks_of_a_trainer_hold() -> None:
    class Half(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super().calculate_train_batch_loss(batch)
            return output | {"loss": output["loss"] / 2}

    data = {"train_dataset": tiny_data(24), "acc_test": False, "lr_select_method": "min_loss"}
    found = []
    for kind in (Trainer, Half):
        finder = LogFinder(tiny_trainer(kind), **data, max_batches=1)
        finder.find()
        found.append(finder.smooth_loss_history[0])
    assert found[1] == pytest.approx(found[0] / 2)


def test_several_optimizers_are_refused() -> None:
    model = tiny_model()
    optimizers = {"a": torch.optim.SGD(model.parameters(), lr=0.1)}
    trainer = Trainer(model, None, optimizers, callbacks=())
    with pytest.raises(NotSupportedError, match="the optimizers a"):
        LogFinder(trainer, train_dataset=tiny_data(), acc_test=False).find()


def curve_of(accuracy: Any = (), losses: Any = None) -> Curve:
    size = len(accuracy) or len(losses)
    losses = np.ones(size) if losses is None else np.asarray(losses)
    return Curve(np.geomspace(1e-4, 1.0, size), losses, np.asarray(accuracy))


@pytest.mark.parametrize(
    ("method", "expected"),
    [("max_acc", (1e-3, 1e-2)), ("min_loss", (1e-2, 1e-1)), ("max_range", (1e-1, 1.0))],
)
def test_selections_of_one_rate(method: str, expected: tuple[float, float]) -> None:
    """L-98."""
    curve = curve_of([0.1, 0.2, 0.9, 0.3, 0.1], [2.0, 1.5, 1.2, 0.7, 9.0])
    assert SELECTIONS[method](curve, 10.0) == pytest.approx(expected)


def test_selections_of_edges() -> None:
    """L-98: a curve that is flat, rises between 1e-3 and 1e-2, is flat, and falls at 1e-1."""
    position = np.linspace(-4, 0, 401)
    accuracy = 0.1 + 0.8 / (1 + np.exp(-12 * (position + 2.5)))
    accuracy -= 0.7 / (1 + np.exp(-20 * (position + 0.8)))
    for curve in (curve_of(accuracy), curve_of(losses=2 - accuracy)):
        low, high = select_sobel(curve, 10.0)
        assert math.log10(low) == pytest.approx(-2.5, abs=0.1)
        assert -2.2 < math.log10(high) < -0.9
        low, high = select_laplace(curve, 10.0)
        assert -3.2 < math.log10(low) < -2.5
        assert -2.5 < math.log10(high) < -0.6


@pytest.mark.parametrize("method", ["laplace", "sobel"])
def test_a_flat_curve_still_gives_a_range(method: str) -> None:
    low, high = SELECTIONS[method](curve_of([0.5] * 30), 10.0)
    assert 0 < low < high
    with pytest.raises(ValueError, match="three batches or more, and 2 were measured"):
        SELECTIONS[method](curve_of([0.5, 0.6]), 10.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_select_method": "sobbel"}, "Did you mean 'sobel'"),
        ({"lr_min": 1.0}, "lr_min=1.0 has to be below lr_max=1.0"),
        ({"lr_min": 0.0}, "lr_min=0.0 has to be greater"),
        ({"beta": 1.0}, "beta=1.0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    """L-98: an unknown method is an error."""
    with pytest.raises(ValueError, match=message):
        LogFinder(classifier(), **options)


def test_accuracy_that_cannot_be_measured_is_told() -> None:
    inputs = tiny_data(12)[0]
    trainer = classifier(
        train_dataset=(inputs, inputs), val_dataset=(inputs, inputs), loss_function="MSELoss"
    )
    with pytest.raises(ValueError, match="the targets are no classes"):
        LogFinder(trainer).find()
    finder = LogFinder(trainer, acc_test=False)
    with pytest.raises(ValueError, match="max_acc needs the accuracy"):
        finder.find()


def test_plots_draw_on_the_axes_given() -> None:
    """L-99."""
    pytest.importorskip("matplotlib")
    from loopwright.plots import new_axes

    finder = LogFinder(classifier(), num_epochs=1)
    for name in ("plot_lr_vs_acc", "plot_lr_vs_loss"):
        with pytest.raises(ValueError, match="no history"):
            getattr(finder, name)(new_axes())
    finder.find()
    for name, values in (("acc", finder.acc_history), ("loss", finder.smooth_loss_history)):
        ax = new_axes()
        assert getattr(finder, f"plot_lr_vs_{name}")(ax, title="search") is ax
        drawn = ax.get_lines()[0]
        assert drawn.get_xdata().tolist() == finder.lr_history
        assert drawn.get_ydata().tolist() == values
        assert [line.get_xdata()[0] for line in ax.get_lines()[1:]] == [*finder.get_lr_range()]
        assert (ax.get_title(), ax.get_xscale()) == ("search", "log")
    without = LogFinder(classifier(), acc_test=False, lr_select_method="min_loss", max_batches=3)
    without.find()
    with pytest.raises(ValueError, match="acc_test=True"):
        without.plot_lr_vs_acc(new_axes())


def test_saving_and_loading(tmp_path: Path) -> None:
    """L-100."""
    finder = LogFinder(classifier(), num_epochs=1, lr_select_method="max_range")
    finder.find()
    finder.save(tmp_path / "found.json")
    other = LogFinder()
    other.load(tmp_path / "found.json")
    automatic = lr_finder_auto_load(tmp_path / "found.json")
    assert type(automatic) is LogFinder
    for loaded in (other, automatic):
        assert loaded.get_lr_range() == finder.get_lr_range()
        assert loaded.smooth_loss_history == finder.smooth_loss_history
        assert loaded.lr_select_method == "max_range"


def test_it_loads_into_the_right_class(tmp_path: Path) -> None:
    """L-100."""

    class LinearFinder(LRFinder):
        def rate(self, batch: int, num_batches: int) -> float:
            return self.lr_min + (self.lr_max - self.lr_min) * batch / num_batches

    finder = LinearFinder(classifier(), max_batches=4)
    finder.find()
    finder.save(tmp_path / "found.json")
    assert type(lr_finder_auto_load(tmp_path / "found.json")) is LinearFinder
    with pytest.raises(CheckpointError, match="of a LinearFinder, not of a LogFinder"):
        LogFinder().load(tmp_path / "found.json")
    del LRFinder.kinds["LinearFinder"]
    with pytest.raises(CheckpointError, match="no finder that is known here: LogFinder"):
        lr_finder_auto_load(tmp_path / "found.json")


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", json.dumps({"finder": "LogFinder"})])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(CheckpointError, match="finder's file"):
        lr_finder_auto_load(tmp_path / "x")


def test_progress_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    LogFinder(classifier(), max_batches=5, print_every=2, verbose=True).find()
    assert capsys.readouterr().out.count("[FIND] batch") == 3

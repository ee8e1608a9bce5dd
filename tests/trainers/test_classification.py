"""The documented trainer: construction, epochs, history, and what a subclass may override."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MapData, same, tiny_data, tiny_model, weights
from torch import nn

from loopwright.callbacks import StepBasedEvaluationCallback
from loopwright.loaders import MapLoader, TensorLoader
from loopwright.schedulers import Triangular, TriangularMomentum
from loopwright.trainers import ClassificationTrainer


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(kind: Any = ClassificationTrainer, model: Any = None, **options: Any) -> Any:
    options = {"train_dataset": tiny_data(12), "batch_size": 4, "num_epochs": 2} | options
    options = {"verbose": False, "seed": 3, "learning_rate": 0.05} | options
    return kind(tiny_model() if model is None else model, **options)


def with_validation(kind: Any = ClassificationTrainer, **options: Any) -> Any:
    return make(kind, **{"val_dataset": tiny_data(10)} | options)


DEFAULTS = {
    "num_epochs": 10,
    "learning_rate": 1e-4,
    "momentum": 0.5,
    "weight_decay": 1e-5,
    "loss_function": "CrossEntropyLoss",
    "optim_function": "Adam",
    "cur_epoch": 0,
    "start_epoch": 0,
    "checkpoint_dir": "checkpoint",
    "checkpoint_name": "ck",
    "save_hist": True,
    "verbose": True,
    "print_every": 10,
    "save_every": -1,
    "save_best": False,
    "device_id": -1,
    "device_map": None,
    "batch_size": 64,
    "val_batch_size": 64,
    "train_dataset": None,
    "test_dataset": None,
    "val_dataset": None,
    "shuffle": True,
    "num_workers": 1,
    "drop_last": True,
    "lr_scheduler": None,
    "mtm_scheduler": None,
    "stop_when_acc": 0.0,
    "early_stop": None,
    "tb_writer": None,
    "best_acc": 0.0,
}


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
def test_defaults(name: str, value: object) -> None:
    """L-07, L-08, L-09, L-10, L-11, L-12, L-13, L-14, L-15, L-16, L-17, L-18, L-19, L-20, L-21,
    L-23, L-24, L-25, L-26, L-27, L-31, L-37."""
    assert getattr(ClassificationTrainer(tiny_model()), name) == value


def test_the_model_is_the_one_positional_argument() -> None:
    """L-07."""
    model = tiny_model()
    assert ClassificationTrainer(model).model is model
    with pytest.raises(TypeError):
        ClassificationTrainer(model, 10)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("learning_rat", "Did you mean 'learning_rate'"),
        ("numepochs", "Did you mean 'num_epochs'"),
        ("zzz", "Known: num_epochs, "),
    ],
)
def test_an_unknown_option_names_the_nearest(option: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ClassificationTrainer(tiny_model(), **{option: 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"learning_rate": -1}, "learning_rate is -1; expected a number, 0 or greater"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"stop_when_acc": 95}, "stop_when_acc is 95; expected a share"),
        ({"early_stop": {"epochs": 3}}, "expected a dict with num_epochs and improv"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm is 0.0"),
        ({"device_map": "cpu"}, "device_map is not used; give device_id"),
        ({"loss_function": "CrossEntropy"}, "no loss 'CrossEntropy'. Did you mean"),
        ({"optim_function": "Adamm"}, "no optimizer 'Adamm'. Did you mean 'Adam'"),
        ({"optim_function": "Optimizer"}, "no optimizer 'Optimizer'"),
    ],
)
def test_values_are_checked(options: dict[str, Any], message: str) -> None:
    """L-39: an unknown loss or optimizer is named."""
    with pytest.raises((ValueError, NotImplementedError), match=re.escape(message)):
        ClassificationTrainer(tiny_model(), **options)


@pytest.mark.parametrize("name", ["val_batch_size", "test_batch_size"])
def test_both_names_of_the_batch_size_of_evaluation(name: str) -> None:
    """L-22, L-23."""
    assert make(**{name: 5}).val_batch_size == 5
    assert make(**{name: 0}).val_batch_size == 4
    with pytest.raises(TypeError, match="give one"):
        make(val_batch_size=3, test_batch_size=3)


def test_schedules_have_to_be_functions() -> None:
    with pytest.raises(TypeError, match=r"lr_scheduler is a float; expected a function"):
        make(lr_scheduler=0.1)


def test_construction_order() -> None:
    """L-28."""
    steps = []

    class Order(ClassificationTrainer):
        pass

    for name in ("device", "optimizer", "dataloaders", "history", "trainer"):
        method = f"_init_{name}"

        def note(self: Any, name: str = name, method: str = method) -> None:
            steps.append(name)
            getattr(ClassificationTrainer, method)(self)

        setattr(Order, method, note)
    make(Order)
    assert steps == ["device", "optimizer", "dataloaders", "history", "trainer"]


def test_criterion_and_optimizer_are_instances() -> None:
    """L-05, L-40, L-41: momentum where the optimizer takes one."""
    adam = make(weight_decay=0.1)
    assert isinstance(adam.optimizer, torch.optim.Adam)
    assert isinstance(adam.criterion, nn.CrossEntropyLoss)
    assert adam.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert adam.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    sgd = make(optim_function="SGD", momentum=0.7, loss_function="NLLLoss")
    assert sgd.optimizer.param_groups[0]["momentum"] == 0.7
    assert isinstance(sgd.criterion, nn.NLLLoss)
    own = make(optim_function=torch.optim.Rprop, loss_function=nn.functional.cross_entropy)
    assert isinstance(own.optimizer, torch.optim.Rprop)


def test_loaders() -> None:
    """L-42, L-44: only training shuffles and drops; workers are passed on."""
    options = {"train_dataset": MapData(10), "val_dataset": MapData(10), "num_workers": 0}
    trainer = make(**options, test_dataset=MapData(7), val_batch_size=3)
    assert [len(part) for part in (trainer.train_loader, trainer.val_loader)] == [2, 4]
    assert len(trainer.test_loader) == 3
    order = [batch[0] for batch in trainer.val_loader]
    assert torch.equal(torch.cat(order), MapData(10).inputs)
    assert isinstance(trainer.train_loader, MapLoader)
    assert (trainer.train_loader.num_workers, make(train_dataset=MapData()).train_loader) != (1, 0)
    assert make(train_dataset=MapData()).train_loader.num_workers == 1
    assert isinstance(make().train_loader, TensorLoader)
    unshuffled = make(shuffle=False, drop_last=False, train_dataset=tiny_data(10))
    assert torch.equal(torch.cat([x for x, _ in unshuffled.train_loader]), tiny_data(10)[0])


def test_without_data_or_model() -> None:
    """L-29, L-30."""
    without_data = ClassificationTrainer(tiny_model())
    assert without_data.train_loader is without_data.val_loader is without_data.loss_history is None
    with pytest.raises(ValueError, match="no train_dataset to train with"):
        without_data.train()
    without_model = ClassificationTrainer(train_dataset=tiny_data())
    assert without_model.optimizer is None
    with pytest.raises(ValueError, match="no model to train with.*load_checkpoint"):
        without_model.train()


@pytest.mark.parametrize(
    ("given", "every", "best"), [(-1, 2, True), (0, 0, False), (5, 5, True), (-7, 2, True)]
)
def test_saving_is_settled_with_the_data(given: int, every: int, best: bool) -> None:
    """L-32, L-33."""
    trainer = make(save_every=given)
    assert (trainer.save_every, trainer.save_best) == (every, best)


def test_a_model_by_name() -> None:
    trainer = make(model="mlp", model_arguments={"input_shape": [3], "classes": 3, "hidden": [4]})
    trainer.train()
    assert trainer.cur_epoch == 2


def test_a_device_by_number() -> None:
    """L-38."""
    assert make().device == torch.device("cpu")
    if torch.cuda.is_available():
        assert make(device_id=0).device == torch.device("cuda:0")
    else:
        with pytest.raises(ValueError, match="'cuda:3' is not available here"):
            make(device_id=3)


def plain_loop(num_epochs: int, order: Any) -> list[torch.Tensor]:
    """Train the tiny model in twenty lines; the batches are given."""
    model, losses = tiny_model(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=1e-5, fused=True)
    for epoch in range(1, num_epochs + 1):
        model.train()
        for inputs, targets in order(epoch):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return [*losses, *(p.detach() for p in model.parameters())]


def test_training_is_that_of_a_plain_loop() -> None:
    """L-01, L-02, L-03, L-45, L-48, L-49, L-50: the same losses and weights, to the bit."""
    trainer = make(train_dataset=tiny_data(14))

    def order(epoch: int) -> Any:
        loader = make(train_dataset=tiny_data(14)).train_loader
        loader.seed, loader.epoch = 3, epoch
        return loader

    expected = plain_loop(2, order)
    trainer.train()
    assert trainer.loss_history.tolist() == [float(loss) for loss in expected[:6]]
    assert same(expected[6:], weights(trainer))
    assert (trainer.loss_iter, trainer.cur_epoch) == (6, 2)


def test_epochs_follow_one_another() -> None:
    """L-45, L-46: training, validation, test; never interleaved; with a test data set (L-43)."""
    events = []

    class Noting(ClassificationTrainer):
        def train_epoch(self) -> None:
            events.append("train")
            super().train_epoch()
            events.append("trained")

        def val_epoch(self) -> None:
            events.append("val")
            super().val_epoch()

        def test_epoch(self) -> None:
            events.append("test")
            super().test_epoch()

    trainer = with_validation(Noting, test_dataset=tiny_data(9))
    trainer.train()
    assert events == ["train", "trained", "val", "test"] * 2
    history = trainer.trainer.run_history
    assert len(history.get_metric_values("test_accuracy")) == 2
    assert len(trainer.get_acc_history()) == 2


def test_nothing_is_left_after_the_last_epoch() -> None:
    """L-47, L-48."""
    trainer = make()
    trainer.train()
    before = weights(trainer)
    trainer.train()
    assert same(before, weights(trainer))
    assert (trainer.cur_epoch, trainer.loss_iter) == (2, 6)


def test_progress_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """L-51, L-56: every print_every batches, never for batch 0 of training."""
    trainer = with_validation(verbose=True, print_every=2, num_epochs=1, batch_size=2)
    trainer.train()
    printed = capsys.readouterr().out
    assert re.findall(r"\[TRAIN\] epoch 1/1, batch (\d)/6: loss \d", printed) == ["2", "4"]
    accuracy = trainer.get_cur_acc()
    assert f"accuracy {round(accuracy * 10)}/10 ({accuracy * 100:.4f} %)" in printed
    assert re.search(r"average loss \d\.\d{4}", printed)
    make().train()
    assert capsys.readouterr().out == ""


def test_evaluation_counts_every_sample() -> None:
    """L-55: the loss of each batch, and correct answers by the size of the data."""
    trainer = with_validation(num_epochs=1, val_batch_size=4)
    trainer.train()
    inputs, targets = tiny_data(10)
    with torch.no_grad():
        outputs = trainer.model(inputs)
    expected = (outputs.argmax(1) == targets).float().mean()
    assert trainer.get_acc_history().tolist() == [pytest.approx(float(expected))]
    parts = zip(outputs.split(4), targets.split(4), strict=True)
    losses = [float(nn.functional.cross_entropy(x, y)) for x, y in parts]
    assert trainer.get_val_loss_history().tolist() == pytest.approx(losses)
    trainer.val_epoch()
    assert len(trainer.get_acc_history()) == 2


def test_files_are_written(tmp_path: Path) -> None:
    """L-18, L-52, L-57, L-58: names of checkpoints, of the best, and of the history."""
    trainer = with_validation(checkpoint_dir="out", checkpoint_name="tiny", save_every=2)
    trainer.train()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    steps = {f"tiny_epoch_{e}_iter_{i}.ckpt" for e, i in ((0, 2), (1, 4), (1, 6))}
    assert files == {*steps, "best_tiny.ckpt", "tiny.history.json"}
    assert trainer.best_acc == max(trainer.get_acc_history())


@pytest.mark.parametrize("options", [{"save_every": 0, "save_hist": False}])
def test_nothing_is_written_unless_asked(tmp_path: Path, options: dict[str, Any]) -> None:
    """L-16, L-19, L-53."""
    with_validation(**options).train()
    assert not (tmp_path / "checkpoint").exists()


def test_save_best_alone(tmp_path: Path) -> None:
    """L-19, L-57."""
    with_validation(save_every=0, save_best=True, save_hist=False).train()
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["best_ck.ckpt"]


def test_schedules_apply_after_every_batch() -> None:
    """L-26, L-54, L-71."""
    rate = Triangular(lr_min=0.1, lr_max=0.4, stepsize=3, lr_history_size=9)
    momentum = TriangularMomentum(mtm_min=0.6, mtm_max=0.9, stepsize=3)
    seen = []

    class Noting(ClassificationTrainer):
        def train_step(self, batch: Any) -> torch.Tensor:
            seen.append((self.get_learning_rate(), self.get_momentum()))
            return super().train_step(batch)

    trainer = make(Noting, optim_function="SGD", mtm_scheduler=momentum)
    trainer.set_lr_scheduler(rate)
    assert trainer.get_lr_scheduler() is rate
    assert trainer.get_mtm_scheduler() is momentum
    trainer.train()
    rates, momenta = zip(*seen, strict=True)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.3, 0.2])
    assert momenta == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.7, 0.8])
    trainer.set_num_epochs(3)
    trainer.train()
    assert [rate for rate, _ in seen[6:]] == pytest.approx([0.1, 0.2, 0.3])
    assert rate.lr_history == pytest.approx([*rates[1:], 0.1, 0.2, 0.3, 0.4])
    trainer.set_mtm_scheduler(None)
    assert trainer.get_mtm_scheduler() is None


class Writer:
    """Keeps scalars as a tensorboard writer would."""

    def __init__(self) -> None:
        self.scalars: dict[str, dict[int, float]] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, {})[step] = value


def test_tensorboard_gets_the_scalars() -> None:
    """L-37, L-71."""
    writer = Writer()
    trainer = with_validation(lr_scheduler=Triangular(), optim_function="SGD", momentum=0.5)
    trainer.set_mtm_scheduler(TriangularMomentum())
    trainer.set_tb_writer(writer)
    trainer.train()
    assert list(writer.scalars["loss/train"].values()) == trainer.get_loss_history().tolist()
    assert list(writer.scalars["loss/train"]) == [1, 2, 3, 4, 5, 6]
    assert list(writer.scalars["acc/val"].values()) == trainer.get_acc_history().tolist()
    assert set(writer.scalars["loss/val"]) == {3, 6}
    assert writer.scalars["schedule/lr"][6] == trainer.get_learning_rate()
    assert writer.scalars["schedule/momentum"][6] == trainer.get_momentum()


class Accuracies(ClassificationTrainer):
    """Gets the accuracies that the test wants."""

    planned = (0.2, 0.5, 0.6, 0.62, 0.63, 0.9)

    def val_epoch(self) -> None:
        assert self.acc_history is not None
        self.acc_history[self.acc_iter] = self.planned[self.acc_iter]
        self.acc_iter += 1


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"stop_when_acc": 0.6}, 3),
        ({"stop_when_acc": 0.61}, 4),
        ({"early_stop": {"num_epochs": 2, "improv": 0.2}}, 4),
        ({"early_stop": {"num_epochs": 1, "improv": 0.05}}, 4),
        ({"early_stop": {"num_epochs": 5, "improv": 0.1}}, 6),
        ({}, 6),
    ],
)
def test_accuracy_stops_the_run(options: dict[str, Any], epochs: int) -> None:
    """L-27, L-59, L-60: the newest value counts."""
    trainer = with_validation(Accuracies, num_epochs=6, save_hist=False, save_every=0, **options)
    trainer.train()
    assert trainer.cur_epoch == epochs
    assert trainer.get_cur_acc() == Accuracies.planned[epochs - 1]


def test_evaluations_inside_an_epoch_leave_no_history(capsys: pytest.CaptureFixture[str]) -> None:
    """L-46: the arrays hold what follows the epochs."""
    every_step = StepBasedEvaluationCallback(eval_every_n_steps=1)
    trainer = with_validation(callbacks=[every_step], verbose=True)
    plain = with_validation()
    trainer.train()
    assert capsys.readouterr().out.count("Evaluating after") == 4
    plain.train()
    assert trainer.get_val_loss_history().tolist() == plain.get_val_loss_history().tolist()
    assert trainer.get_acc_history().tolist() == plain.get_acc_history().tolist()
    assert same(weights(trainer), weights(plain))


def test_a_stopped_run_can_be_extended() -> None:
    trainer = with_validation(Accuracies, num_epochs=6, save_every=0, stop_when_acc=0.6)
    trainer.train()
    trainer.stop_when_acc = 0.0
    trainer.train()
    assert (trainer.cur_epoch, trainer.loss_iter) == (6, 18)


def test_no_validation_pass() -> None:
    """L-06: val_epoch may be left doing nothing."""

    class Without(ClassificationTrainer):
        def val_epoch(self) -> None:
            pass

    trainer = with_validation(Without)
    trainer.train()
    assert trainer.cur_epoch == 2
    assert trainer.get_acc_history() is None


class Overridden(ClassificationTrainer):
    """Has a loop of its own that uses the trainer's batches and step."""

    def train_epoch(self) -> None:
        self.model.train()
        for batch in self.batches():
            loss = self.train_step(batch)
            assert loss.requires_grad is False


EVERYTHING = {
    "train_dataset": tiny_data(26),
    "gradient_accumulation_steps": 3,
    "gradient_clip_norm": 0.1,
    "precision": "bf16",
    "optim_function": "SGD",
    "lr_scheduler": Triangular(stepsize=3),
    "save_every": 4,
    "drop_last": False,
}


def test_an_overridden_epoch_keeps_everything() -> None:
    """L-04: accumulation, precision, clipping, schedules and files are those of the default."""
    default, own = with_validation(**EVERYTHING), with_validation(Overridden, **EVERYTHING)
    default.train()
    files = sorted(path.name for path in Path("checkpoint").iterdir())
    own.train()
    assert same(weights(default), weights(own))
    assert default.get_loss_history().tolist() == own.get_loss_history().tolist()
    # 7 batches in an epoch, updates after the 3rd, 6th and 7th.
    assert [name for name in files if "iter" in name] == [
        "ck_epoch_0_iter_6.ckpt",
        "ck_epoch_1_iter_10.ckpt",
        "ck_epoch_1_iter_13.ckpt",
    ]


class Leaves(ClassificationTrainer):
    """Leaves some batches out."""

    def train_epoch(self) -> None:
        for batch in self.batches():
            if batch[0].sum() > 0:
                self.train_step(batch)


def test_batches_can_be_left_out() -> None:
    trainer = make(Leaves, train_dataset=tiny_data(20), save_every=0)
    trainer.train()
    assert 0 < trainer.loss_iter < 10
    assert trainer.cur_epoch == 2


class PlainLoop(ClassificationTrainer):
    """Trains by plain code, as the documented base class does."""

    def train_epoch(self) -> None:
        assert self.loss_history is not None
        for inputs, targets in self.train_loader:
            loss = self.criterion(self.model(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.loss_history[self.loss_iter] = loss.item()
            self.loss_iter += 1


def test_an_epoch_of_plain_code(capsys: pytest.CaptureFixture[str]) -> None:
    """L-04: it works, is saved at the ends of epochs, and the run says so, once."""
    trainer, default = make(PlainLoop, verbose=True, save_best=True), make()
    trainer.train()
    printed = capsys.readouterr().out
    assert printed.count("PlainLoop.train_epoch runs a loop of its own") == 1
    default.train()
    assert same(weights(default), weights(trainer))
    assert trainer.get_loss_history().tolist() == default.get_loss_history().tolist()
    names = [path.name for path in Path("checkpoint").iterdir() if "iter" in path.name]
    assert {"ck_epoch_0_iter_3.ckpt", "ck_epoch_1_iter_6.ckpt"} <= set(names)
    losses = trainer.trainer.run_history.get_metric_values("train_loss_epoch")
    assert losses[1] == pytest.approx(np.mean(trainer.get_cur_epoch_loss()))


def test_steps_belong_to_a_run() -> None:
    trainer = make()
    with pytest.raises(RuntimeError, match=r"batches belongs to train_epoch"):
        trainer.train_epoch()
    with pytest.raises(RuntimeError, match="train_step belongs to train_epoch"):
        trainer.train_step(tiny_data(4))


def test_another_objective() -> None:
    """L-04: calculate_batch_loss is what the steps of training and evaluation ask."""

    class Regression(ClassificationTrainer):
        def calculate_batch_loss(self, batch: Any) -> dict[str, Any]:
            outputs = self.model(batch[0])
            loss = (outputs - batch[0]).square().mean()
            return {"loss": loss, "model_outputs": outputs, "batch_size": len(outputs)}

        def count_correct(self, batch: Any, output: Any) -> None:
            return None

    trainer = with_validation(Regression)
    trainer.train()
    assert trainer.get_acc_history() is None
    assert len(trainer.get_val_loss_history()) == 6


def test_repr_and_str() -> None:
    """L-85."""
    trainer = make()
    assert repr(trainer) == "ClassificationTrainer (2 epochs)"
    assert "learning_rate: 0.05" in str(trainer)
    assert "loss_function: CrossEntropyLoss" in str(trainer)

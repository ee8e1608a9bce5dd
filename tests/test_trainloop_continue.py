"""Continuing a TrainLoop from a saved model: to the bits of a loop that was never interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Feed, TinyModel, TwoHeads, adam, loader, make_loop, state_of
from tiny import same, tiny_data
from torch import nn

from loopwright.errors import CheckpointError
from loopwright.exports import load_export, save_export
from loopwright.loop_callbacks import AbstractCallback
from loopwright.loop_schedulers import AbstractScheduler
from loopwright.seed import set_seed
from loopwright.trainloop import ModelWrap, TrainLoop


class Saves(AbstractCallback):
    """Saves the loop to a file when a batch, or an epoch, of some number is done."""

    def __init__(self, path: Path, *, batch: int = -1, epoch: int = -1) -> None:
        super().__init__("saves", execution_order=100)
        self.path, self.batch, self.epoch = path, batch, epoch

    def on_batch_end(self) -> None:
        if self.train_loop_obj.total_iteration_idx == self.batch:
            save_export(self.train_loop_obj.checkpoint_content({"lr": 0.05}), self.path)

    def on_epoch_end(self) -> None:
        if self.train_loop_obj.epoch == self.epoch:
            save_export(self.train_loop_obj.checkpoint_content({"lr": 0.05}), self.path)


class Schedule(AbstractScheduler, AbstractCallback):
    """Lowers the rate after each epoch."""

    def __init__(self) -> None:
        AbstractCallback.__init__(self, "schedule")

    def on_train_loop_registration(self) -> None:
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.train_loop_obj.optimizer, 0.8)

    def on_epoch_end(self) -> None:
        self.scheduler.step()


class Counts(AbstractCallback):
    """Counts batches, and draws."""

    def __init__(self) -> None:
        super().__init__("counts")
        self.count = 0

    def on_batch_end(self) -> None:
        self.count += 1
        self.train_loop_obj.insert_metric_result_into_history("drawn", float(torch.rand(())))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Restores(AbstractCallback):
    """Continues from a file."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__("restores", execution_order=-10)
        self.path, self.options = path, options

    def on_train_loop_registration(self) -> None:
        self.content = load_export(self.path)
        self.train_loop_obj.continue_from(self.content, **self.options)

    def on_train_begin(self) -> None:
        self.train_loop_obj.load_schedulers(self.content["schedulers_state_dict"])


def own_generator() -> Any:
    return loader(shuffle=True, generator=torch.Generator().manual_seed(9))


def batches() -> list[Any]:
    inputs, targets = tiny_data(14)
    return list(zip(inputs.split(4), targets.split(4), strict=True))


LOOPS = {
    "global generators": dict,
    "a generator of the loader's own": lambda: {"train": own_generator()},
    "several losses": lambda: {"model": TwoHeads()},
    "a list of batches": lambda: {"train": batches()},
}
WHERE = {
    "after an epoch": {"epoch": 1},
    "within an epoch": {"batch": 5},
    "at its end": {"batch": 7},
}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", LOOPS)
def test_a_continued_run_ends_with_the_same_bits(
    kind: str, where: str, accumulation: int, tmp_path: Path
) -> None:
    """A-75, A-77: weights, optimizers, rates, history, counters, what callbacks count and draw."""
    runs = []
    for continues in (False, True):
        set_seed(123 if continues else 5)
        loop, counts = make_loop(test=loader(5), **LOOPS[kind]()), Counts()
        callbacks: list[Any] = [counts]
        if kind != "several losses":
            callbacks.append(Schedule())
        if continues:
            callbacks.append(Restores(tmp_path / "saved.pth"))
        else:
            callbacks.append(Saves(tmp_path / "saved.pth", **WHERE[where]))
        loop.fit(num_epochs=4, callbacks=callbacks, grad_accumulation=accumulation)
        runs.append((loop, counts))
    (whole, counted), (continued, counted_again) = runs
    assert same(state_of(whole), state_of(continued))
    assert str(whole.optimizer.state_dict()) == str(continued.optimizer.state_dict())
    assert continued.train_history.train_history == whole.train_history.train_history
    assert (continued.epoch, continued.total_iteration_idx) == (3, 15)
    assert counted_again.count == counted.count == 16


@pytest.mark.slow
@pytest.mark.parametrize("where", WHERE)
def test_workers_change_nothing(where: str, tmp_path: Path) -> None:
    """A-77: over a loader with workers, whose dataset draws in them."""
    runs = []
    for continues in (False, True):
        set_seed(123 if continues else 5)
        loop = make_loop(train=loader(shuffle=True, num_workers=2), end_auto_eval=False)
        callback: Any = Saves(tmp_path / "saved.pth", **WHERE[where])
        loop.fit(3, callbacks=[Restores(tmp_path / "saved.pth") if continues else callback])
        runs.append(loop)
    assert same(state_of(runs[0]), state_of(runs[1]))
    assert runs[0].train_history.train_history == runs[1].train_history.train_history


def saved_after(epoch: int, path: Path, **options: Any) -> Any:
    set_seed(5)
    loop = make_loop(**options)
    loop.fit(num_epochs=3, callbacks=[Saves(path, epoch=epoch)])
    return loop


def test_iterations_are_counted_on(tmp_path: Path) -> None:
    """A-30, A-77."""
    saved_after(1, tmp_path / "saved.pth")
    loop = make_loop()
    loop.fit(num_iterations=11, callbacks=[Restores(tmp_path / "saved.pth")])
    assert (loop.total_iteration_idx, loop.epoch) == (10, 2)
    set_seed(5)
    whole = make_loop()
    whole.fit(num_iterations=11)
    assert same(state_of(whole), state_of(loop))


def test_a_finished_run_only_ends_again(tmp_path: Path) -> None:
    """A run that was killed after its last checkpoint has its end left to do."""
    whole = saved_after(2, tmp_path / "saved.pth", test=loader(5))
    loop = make_loop(test=loader(5))
    loop.fit(num_epochs=3, callbacks=[Restores(tmp_path / "saved.pth")])
    assert same(state_of(whole), state_of(loop))
    assert loop.train_history.train_history == whole.train_history.train_history


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    """A-45."""

    class Stops(AbstractCallback):
        def on_epoch_end(self) -> None:
            self.train_loop_obj.early_stop = self.train_loop_obj.epoch == 1

    set_seed(5)
    make_loop().fit(9, callbacks=[Stops("stops", 99), Saves(tmp_path / "saved.pth", epoch=1)])
    loop = make_loop()
    loop.fit(9, callbacks=[Restores(tmp_path / "saved.pth")])
    assert (loop.epoch, loop.total_iteration_idx) == (1, 7)


def test_a_saved_model_holds_what_is_documented(tmp_path: Path) -> None:
    """A-63: in a file that loads with weights_only; objects are described, secrets are masked."""
    loop = make_loop(val=None)
    loop.fit(2, callbacks=[Schedule()])
    hyperparams = {"lr": 0.1, "betas": (0.9, 0.999), "net": nn.Linear, "api_key": "xyz"}
    save_export(loop.checkpoint_content(hyperparams), tmp_path / "saved.pth")
    content = torch.load(tmp_path / "saved.pth", weights_only=True)
    assert set(content) == {
        *("model_state_dict", "optimizer_state_dict", "schedulers_state_dict", "epoch"),
        *("iteration_idx", "hyperparams", "training_state"),
    }
    assert (content["epoch"], content["iteration_idx"]) == (1, 7)
    assert content["hyperparams"] == {
        "lr": 0.1,
        "betas": (0.9, 0.999),
        "net": "torch.nn.modules.linear.Linear",
        "api_key": "***",
    }
    assert hyperparams["api_key"] == "xyz"
    fresh = TinyModel()
    fresh.load_state_dict(content["model_state_dict"])
    assert same(fresh.state_dict().values(), state_of(loop))


def test_gradients_that_wait_cannot_be_saved() -> None:
    class Asks(AbstractCallback):
        def on_batch_end(self) -> None:
            self.train_loop_obj.checkpoint_content()

    with pytest.raises(CheckpointError, match="in the middle of an update"):
        make_loop(val=None).fit(1, callbacks=[Asks("asks")], grad_accumulation=2)


def test_a_model_of_another_program_goes_on_with_the_next_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A-76: weights, optimizer and counters are restored, the order of samples is another."""
    whole = saved_after(1, tmp_path / "saved.pth")
    content = load_export(tmp_path / "saved.pth")
    del content["training_state"]
    loop = make_loop()
    loop.continue_from(content)
    assert same(loop.model.state_dict().values(), content["model_state_dict"].values())
    assert loop.optimizer.state_dict()["state"][0]["step"] == 8
    assert (loop.epoch, loop.total_iteration_idx) == (2, 7)
    assert "no training state" in capsys.readouterr().out
    loop.fit(num_epochs=3)
    assert (loop.epoch, loop.total_iteration_idx) == (2, 11)
    assert len(loop.train_history["loss"]) == 1
    assert not same(state_of(loop), state_of(whole))


def test_other_settings_are_refused_unless_allowed(tmp_path: Path) -> None:
    path = tmp_path / "saved.pth"
    saved_after(1, path)
    with pytest.raises(CheckpointError, match="gradient_accumulation_steps: 1 then, 2 now"):
        make_loop().fit(3, callbacks=[Restores(path)], grad_accumulation=2)
    loop = make_loop()
    loop.fit(3, callbacks=[Restores(path, allow_changes=True)], grad_accumulation=2)
    assert loop.epoch == 2


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "saved.pth"
    saved_after(1, path)
    model = TwoHeads()
    loop = TrainLoop(model, loader(), None, None, adam(model), nn.CrossEntropyLoss())
    with pytest.raises(CheckpointError, match=r"the saved model lacks second\.0\.bias"):
        loop.fit(3, callbacks=[Restores(path)])
    with pytest.raises(CheckpointError, match="has no model_state_dict"):
        make_loop().continue_from({"epoch": 1, "optimizer_state_dict": {}})


def test_schedulers_have_to_match(tmp_path: Path) -> None:
    """A-76."""
    loop = make_loop()
    loop.callbacks_handler.register_callbacks([Schedule()])
    with pytest.raises(CheckpointError, match="has 0 schedulers and this loop 1"):
        loop.load_schedulers([])
    loop.load_schedulers([], ignore_missing=True)
    with pytest.raises(CheckpointError, match="has 1 schedulers and this loop 0"):
        make_loop().load_schedulers([{}])
    make_loop().load_schedulers([{}], ignore_saved=True)


def test_a_callback_without_a_saved_state_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "saved.pth"
    saved_after(1, path)
    counts = Counts()
    make_loop().fit(3, callbacks=[Restores(path), counts])
    assert counts.count == 4
    assert "Counts has no saved state, and starts anew" in capsys.readouterr().out


def test_a_wrapped_module_continues_too(tmp_path: Path) -> None:
    """A-55, A-77."""
    states = []
    for epochs in ((2, 4), (4,)):
        set_seed(5)
        net = TinyModel().layers
        loop = make_loop(model=ModelWrap(net, Feed()))
        loop.fit(epochs[0])
        for more in epochs[1:]:
            save_export(loop.checkpoint_content(), tmp_path / "saved.pth")
            loop = make_loop(model=ModelWrap(TinyModel().layers, Feed()))
            loop.continue_from(load_export(tmp_path / "saved.pth"))
            loop.fit(more)
        states.append(state_of(loop))
    assert same(*states)

"""Training by a TrainLoop: the losses of a plain PyTorch loop, the order of calls, its length."""

import itertools
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from loops import Recorder, TinyModel, adam, loader, make_loop, mean_loss, state_of
from tiny import Stream, same, tiny_data, tiny_model
from torch import nn

import loopwright
from loopwright.errors import NotSupportedError
from loopwright.loop_callbacks import AbstractCallback
from loopwright.seed import preserved_random_states
from loopwright.trainloop import TrainLoop, TTBasicModel


def seed() -> None:
    torch.manual_seed(7)
    np.random.seed(1)
    random.seed(1)


def plain_loop(num_epochs: int) -> tuple[Any, dict[str, list[float]]]:
    """Return the model and the losses of a loop in plain PyTorch."""
    model, criterion = TinyModel(), nn.CrossEntropyLoss()
    optimizer = adam(model)
    train, val, test = loader(shuffle=True), loader(9), loader(5)
    history: dict[str, list[float]] = {"accumulated_loss": [], "loss": [], "val_loss": []}
    model.train()
    for _ in range(num_epochs):
        total, count = 0.0, 0
        for inputs, targets in train:
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total, count = total + loss.item() * len(inputs), count + len(inputs)
        history["accumulated_loss"].append(total / count)
        for name, data in (("loss", train), ("val_loss", val)):
            with preserved_random_states():
                history[name].append(mean_loss(model, data, criterion))
    history["train_end_test_loss"] = [mean_loss(model, test, criterion)]
    return model, history


def test_the_losses_are_those_of_a_plain_loop() -> None:
    """A-02, A-03, A-04, A-35, A-36, A-39: to the bit, with dropout, noise and a shuffled order."""
    seed()
    model, history = plain_loop(3)
    seed()
    loop = make_loop(test=loader(5))
    assert loop.fit(num_epochs=3) is loop.model
    assert loop.train_history.get_train_history() == history
    assert same(state_of(loop), model.state_dict().values())


def test_evaluation_within_fork_rng_is_the_same() -> None:
    """A-39: for data that draw from torch alone, as the plain loop of the document does."""
    data = torch.utils.data.TensorDataset(*tiny_data(14))

    def batches() -> Any:
        return torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)

    torch.manual_seed(3)
    model, criterion, expected = TinyModel(), nn.CrossEntropyLoss(), []
    optimizer, train = adam(model), batches()
    for _ in range(3):
        for inputs, targets in train:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        with torch.random.fork_rng():
            expected.append(mean_loss(model, train, criterion))
    torch.manual_seed(3)
    loop = make_loop(train=batches(), val=None)
    loop.fit(3)
    assert loop.train_history["loss"] == expected
    assert same(state_of(loop), model.state_dict().values())


def test_the_order_of_calls() -> None:
    """A-33, A-93, A-95: begin, loss, backward, gradients, step, zero grad, end."""

    def gradients(loop: Any) -> list[bool]:
        return [parameter.grad is not None for parameter in loop.model.parameters()]

    recorder = Recorder(gradients)
    make_loop(val=None).fit(num_epochs=2, callbacks=[recorder])
    batch = ["batch begin", "gradient 0", "step", "batch end"]
    epoch = ["epoch begin", *batch * 4, "epoch end"]
    assert recorder.names == ["registration", "train begin", *epoch * 2, "train end"]
    for name, has_gradients in recorder.calls:
        assert all(has_gradients) == (name in ("gradient 0", "step")), name


def test_gradient_methods_run_only_when_asked_for() -> None:
    """A-95."""

    class NotAsking(Recorder):
        def on_train_loop_registration(self) -> None:
            pass

    recorder = NotAsking()
    make_loop(val=None).fit(num_epochs=1, callbacks=[recorder])
    assert "batch end" in recorder.names
    assert {"gradient 0", "step"}.isdisjoint(recorder.names)


def test_callbacks_run_by_their_order() -> None:
    """A-96: ascending, equal ones as given; those of a later fit among them."""
    calls: list[str] = []

    class Named(AbstractCallback):
        def on_epoch_end(self) -> None:
            calls.append(self.callback_name)

    loop = make_loop(val=None)
    loop.fit(1, callbacks=[Named("c", 100), Named("a"), Named("b")])
    assert calls == ["a", "b", "c"]
    loop.fit(2, callbacks=[Named("middle", 7)])
    assert calls[3:] == ["a", "b", "middle", "c"]
    assert [each.callback_name for each in loop.callbacks] == ["a", "b", "middle", "c"]


def test_a_registered_callback_knows_the_loop_and_its_messages() -> None:
    """A-94."""
    callback = AbstractCallback("one")
    loop = make_loop()
    loop.callbacks_handler.register_callbacks([callback])
    assert callback.train_loop_obj is loop
    assert callback.message_service is loop.message_service


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(TypeError, match="ProgressBarCallback is no callback of a TrainLoop"):
        make_loop().fit(1, callbacks=[loopwright.default_callbacks.ProgressBarCallback()])
    with pytest.raises(TypeError, match="expected instances"):
        make_loop().fit(1, callbacks=[Recorder])


def test_the_callbacks_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    make_loop(print_callbacks=True).fit(1, callbacks=[AbstractCallback("mine", 5)])
    assert "mine, order 5" in capsys.readouterr().out


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4])
def test_accumulation_is_the_gradient_of_the_whole_batch(accumulation: int) -> None:
    """A-34: batches of 4, 4, 4 and 2 samples; each weighs its share of its update's samples."""
    torch.manual_seed(0)
    inputs, targets = tiny_data(14, dtype=torch.float64)
    model, criterion = TinyModel(dropout=0.0).double(), nn.CrossEntropyLoss()
    optimizer = adam(model)
    for part in torch.arange(14).split(4 * accumulation):
        criterion(model(inputs[part]), targets[part]).backward()
        optimizer.step()
        optimizer.zero_grad()
    steps = Recorder()
    data = list(zip(inputs.split(4), targets.split(4), strict=True))
    loop = make_loop(model=TinyModel(dropout=0.0).double(), train=data, val=None)
    loop.fit(1, callbacks=[steps], grad_accumulation=accumulation)
    for ours, theirs in zip(state_of(loop), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert steps.names.count("step") == -(-4 // accumulation) == loop.get_num_training_steps()


def test_equal_batches_are_divided_as_by_hand() -> None:
    """A-34: 1/n for each, to the bit; the recorded loss is not divided."""
    inputs, targets = tiny_data(16)
    model, criterion = TinyModel(dropout=0.0), nn.CrossEntropyLoss()
    optimizer = adam(model)
    total = 0.0
    data = list(zip(inputs.split(4), targets.split(4), strict=True))
    for index, (x, y) in enumerate(data):
        loss = criterion(model(x), y)
        total += loss.item()
        (loss / 2).backward()
        if index % 2:
            optimizer.step()
            optimizer.zero_grad()
    loop = make_loop(model=TinyModel(dropout=0.0), train=data, val=None)
    loop.fit(1, grad_accumulation=2)
    assert same(state_of(loop), model.state_dict().values())
    assert loop.train_history["accumulated_loss"] == [total / 4]


def test_the_counters() -> None:
    """A-28, A-31, A-32, A-46: epochs from 0, batches from 0, the time of construction."""
    loop = make_loop(val=None)
    assert (loop.epoch, loop.total_iteration_idx) == (0, -1)
    recorder = Recorder(lambda loop: (loop.epoch, loop.iteration, loop.total_iteration_idx))
    assert loop(num_epochs=2, callbacks=[recorder]) is loop.model
    begun = [where for name, where in recorder.calls if name == "batch begin"]
    assert begun == [(i // 4, i % 4, i) for i in range(8)]
    assert (loop.epoch, loop.total_iteration_idx) == (1, 7)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", loop.experiment_timestamp)
    before = loop.experiment_timestamp
    loop.fit(3)
    assert (loop.epoch, loop.experiment_timestamp) == (2, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "num_epochs is 0 and num_iterations is 0"),
        ({"num_epochs": 2, "num_iterations": 3}, "expected one of them"),
        ({"num_epochs": -1}, "expected 1 or more"),
        ({"num_epochs": 1, "grad_accumulation": 0}, "grad_accumulation is 0"),
        ({"num_epochs": 1, "dp_model_args": {}}, "dp_model_args is for gpu_mode='dp'"),
    ],
)
def test_what_fit_refuses(arguments: dict[str, Any], message: str) -> None:
    """A-29."""
    with pytest.raises(ValueError, match=message):
        make_loop().fit(**arguments)


def test_what_is_reached_already_is_said() -> None:
    loop = make_loop(val=None)
    loop.fit(num_epochs=2)
    with pytest.raises(ValueError, match="num_epochs=2 is reached: this loop has trained 2"):
        loop.fit(num_epochs=2)
    loop.fit(num_iterations=9)
    with pytest.raises(ValueError, match="num_iterations=9 is reached: this loop has trained 9"):
        loop.fit(num_iterations=9)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("num_iterations", [3, 4, 7, 10])
def test_iterations_end_training_exactly(num_iterations: int, accumulation: int) -> None:
    """A-30: epochs of 4 batches; the last update takes what is left."""
    recorder = Recorder()
    loop = make_loop(val=None)
    loop.fit(num_iterations=num_iterations, callbacks=[recorder], grad_accumulation=accumulation)
    assert recorder.names.count("batch end") == num_iterations
    assert loop.total_iteration_idx == num_iterations - 1
    assert loop.epoch == (num_iterations - 1) // 4
    assert recorder.names.count("step") == loop.get_num_training_steps()


def test_iterations_over_data_of_unknown_length() -> None:
    """A-30."""
    data = torch.utils.data.DataLoader(Stream(14), batch_size=4)
    recorder = Recorder()
    make_loop(train=data, val=None).fit(num_iterations=6, callbacks=[recorder])
    assert recorder.names.count("batch end") == 6
    assert recorder.names.count("epoch begin") == 2


def test_the_number_of_updates() -> None:
    """A-44: an update of the last batches of an epoch counts."""
    loop = make_loop(val=None)
    with pytest.raises(ValueError, match="known inside fit"):
        loop.get_num_training_steps()
    seen: list[int] = []

    class Asks(AbstractCallback):
        def on_train_loop_registration(self) -> None:
            seen.append(self.train_loop_obj.get_num_training_steps())

    loop.fit(num_epochs=3, callbacks=[Asks("asks")], grad_accumulation=3)
    assert seen == [6]
    assert loop.trainer.progress.step == 6
    assert loop.get_schedulers() == []
    assert loop.is_main_process() is True


@pytest.mark.parametrize(("limit", "num_steps"), [("num_epochs", 4), ("num_iterations", 1)])
def test_batches_that_complete_an_update_are_known(limit: str, num_steps: int) -> None:
    """A-34, A-105: to callbacks that step with the optimizer."""
    recorder = Recorder(lambda loop: loop.should_execute_optimizer_update())
    make_loop(val=None).fit(**{limit: 2}, callbacks=[recorder], grad_accumulation=3)
    ended = [(name, completes) for name, completes in recorder.calls if name[0] != "g"]
    for (before, _), (name, completes) in itertools.pairwise(ended):
        if name == "batch end":
            assert completes == (before == "step")
    assert recorder.names.count("step") == num_steps


def test_early_stop_ends_training_after_the_epoch() -> None:
    """A-45."""

    class Stops(AbstractCallback):
        def on_batch_begin(self) -> None:
            self.train_loop_obj.early_stop = self.train_loop_obj.epoch == 1

    recorder = Recorder()
    loop = make_loop()
    loop.fit(num_epochs=9, callbacks=[Stops("stops"), recorder])
    assert loop.epoch == 1
    assert len(loop.train_history["val_loss"]) == 2
    assert recorder.names[-2:] == ["epoch end", "train end"]
    assert recorder.names.count("batch end") == 8


@pytest.mark.parametrize(
    ("end_auto_eval", "evaluations", "tests"), [(True, 5, 1), (False, 0, 0), (2, 3, 1), (1, 5, 1)]
)
def test_automatic_evaluation(end_auto_eval: Any, evaluations: int, tests: int) -> None:
    """A-37, A-38: an int evaluates every that many epochs, the first one included."""
    loop = make_loop(test=loader(5), end_auto_eval=end_auto_eval)
    assert loop.train_history.get_train_history() == {
        "loss": [],
        "accumulated_loss": [],
        "val_loss": [],
    }
    loop.fit(num_epochs=5)
    history = loop.train_history
    assert len(history["accumulated_loss"]) == 5
    assert len(history["loss"]) == len(history["val_loss"]) == evaluations
    assert len(history.get_train_history().get("train_end_test_loss", [])) == tests


def test_a_loop_without_validation_has_no_validation_loss() -> None:
    """A-05, A-35, A-38."""
    loop = make_loop(val=None)
    assert set(loop.train_history) == {"loss", "accumulated_loss"}
    loop.fit(1)
    assert set(loop.train_history) == {"loss", "accumulated_loss"}


def test_what_the_loop_holds_can_be_replaced() -> None:
    """A-04: model, loaders, optimizer and criterion are read when `fit` starts."""
    loop = make_loop(val=None)
    loop.fit(1)
    loop.model = TinyModel()
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.0)
    loop.train_loader = loader(6)
    loop.fit(2)
    assert same(state_of(loop), TinyModel().state_dict().values())
    assert loop.total_iteration_idx == 4 + 2 - 1


def test_the_plain_loop_writes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A-10."""
    monkeypatch.chdir(tmp_path)
    make_loop(test=loader(5)).fit(2)
    assert list(tmp_path.iterdir()) == []


def test_modes() -> None:
    """A-27, A-48: unknown modes are a mistake, ddp is for later."""
    with pytest.raises(ValueError, match="gpu_mode is 'dpp'; expected one of single, dp, ddp"):
        make_loop(gpu_mode="dpp")
    with pytest.raises(NotSupportedError, match="'ddp'.* is not available in this version"):
        make_loop(gpu_mode="ddp")


def test_a_model_has_to_say_its_loss() -> None:
    """A-07, A-26."""
    with pytest.raises(TypeError, match="is a Sequential; expected a TTModel"):
        TrainLoop(tiny_model(), [], None, None, None, None)  # type: ignore[arg-type]


def test_an_optimizer_that_needs_a_closure_is_refused() -> None:
    model = TinyModel()
    optimizer = torch.optim.LBFGS(model.parameters())
    loop = TrainLoop(model, loader(), None, None, optimizer, nn.CrossEntropyLoss())
    with pytest.raises(NotSupportedError, match=r"LBFGS.step needs a closure"):
        loop.fit(1)


def test_mixed_precision_waits_for_a_gpu() -> None:
    """A-47: on a CPU the scaler is disabled and training is that without."""
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    seed()
    full = make_loop(val=None)
    assert full.amp_scaler.is_enabled() is False
    full.fit(1)
    for use_amp in (True, {"init_scale": 4.0}):
        seed()
        loop = make_loop(val=None, use_amp=use_amp)
        assert loop.use_amp is True
        assert loop.amp_scaler.is_enabled() is False
        loop.fit(1)
        assert same(state_of(loop), state_of(full))
        assert "amp" in loop.checkpoint_content()


class Duck:
    """Is an optimizer, or a criterion, or a loss, of the fewest methods."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in ("step", "zero_grad", "backward"):
            raise AttributeError(name)
        return lambda: self.calls.append(name)

    def detach(self) -> Any:
        return torch.tensor(2.0)

    def __truediv__(self, divisor: Any) -> "Duck":
        return self


def test_loaders_losses_and_optimizers_are_duck_typed() -> None:
    """A-56 too: there is no criterion."""
    loss, optimizer = Duck(), Duck()

    class Model(TTBasicModel):
        def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
            assert criterion is None
            return loss

    loop = TrainLoop(Model(), range(4), "ab", None, optimizer, None)
    loop.fit(num_epochs=2, grad_accumulation=2)
    assert loss.calls == ["backward"] * 8
    assert optimizer.calls == ["step", "zero_grad"] * 4
    assert loop.train_history["val_loss"] == [2.0, 2.0]

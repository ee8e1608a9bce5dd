"""Tests of the step that a run stopped at: what is saved of it, and what running it again finds."""

import math
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tiny import MapData, Stream, tiny_data, tiny_model
from torch import nn

from loopwright.checkpoint import read_state
from loopwright.default_callbacks import TerminateOnNaNCallback
from loopwright.errors import CheckpointError
from loopwright.events import TrainerCallback
from loopwright.forensics import Replay, replay
from loopwright.trainer import Trainer

PATHS = pytest.mark.parametrize("reads", [True, False], ids=["host", "device"])


class Root(nn.Module):
    """Is the square root, NaN below zero and of infinite slope at zero."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.sqrt()


class Reciprocal(nn.Module):
    """Is infinite at zero."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 1 / inputs


class Scaled(nn.Module):
    """Has a layer, and multiplies after it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.layer(inputs)
        return (outputs * (outputs > 0)).sqrt()


class Gate(nn.Module):
    """Is zero below zero, with a slope that multiplies."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * (inputs > 0)


def positive(num_inputs: int = 3, num_outputs: int = 3) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(num_inputs, num_outputs)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.bias.fill_(5.0)
    return layer


def make_trainer(
    model: nn.Module, *, reads: bool = True, cls: Any = Trainer, **options: Any
) -> Any:
    callback = TerminateOnNaNCallback()
    callback.seconds_between_reads = 1e9
    options.setdefault("seed", 3)
    callbacks = [callback, *options.pop("callbacks", ())]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    trainer = cls(
        model, options.pop("loss", nn.CrossEntropyLoss()), optimizer, callbacks, **options
    )
    trainer._reads_losses_per_step = reads
    trainer.print = lambda *args: None
    return trainer


def spoiled(index: int, value: float = -1e9, num_samples: int = 24) -> Any:
    """Return data in which one sample sends a square root below zero."""
    inputs, targets = tiny_data(num_samples)
    inputs = inputs.clone()
    inputs[index] = value
    return inputs, targets


def stopped(folder: Path, model: nn.Module, data: Any, **options: Any) -> Any:
    arguments = {"per_device_batch_size": 2} | options.pop("arguments", {})
    trainer = make_trainer(model, run_dir=folder, **options)
    torch.manual_seed(7)
    trainer.train(data, 2, **arguments)
    assert trainer.stop_reason
    return trainer


@PATHS
@pytest.mark.parametrize("kind", ["tensors", "map", "stream", "own loader"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_batch_of_the_bad_step_is_saved(
    tmp_path: Path, reads: bool, kind: str, accumulation: int
) -> None:
    """It is made again from its position, or was kept where the loader cannot."""
    seen: list[Any] = []

    class Seeing(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            seen.append(batch[0].clone())
            return super().calculate_train_batch_loss(batch)

    class Own(Seeing):
        def create_train_dataloader(self, batch_size: int, train_dl_kwargs: Any = None) -> Any:
            generator = torch.Generator().manual_seed(3)
            return torch.utils.data.DataLoader(
                self.train_dataset, batch_size=batch_size, shuffle=True, generator=generator
            )

    inputs, targets = spoiled(13)
    data: Any = (inputs, targets)
    if kind != "tensors":
        data = Stream(24) if kind == "stream" else MapData(24, noise=kind == "map")
        data.inputs = inputs
    cls = Own if kind == "own loader" else Seeing
    workers = {} if kind == "own loader" else {"train_dataloader_kwargs": {"num_workers": 0}}
    arguments = {"gradient_accumulation_steps": accumulation, **workers}
    model = nn.Sequential(positive(), Root())
    trainer = stopped(tmp_path, model, data, cls=cls, reads=reads, arguments=arguments)
    saved = read_state(tmp_path / "forensics")
    bad = next(i for i, batch in enumerate(seen) if (batch < -1e8).any())
    first = bad - bad % accumulation
    assert [len(micro_batch) for micro_batch in saved["batch"]] == [2] * (bad - first + 1)
    for micro_batch, there in zip(saved["batch"], seen[first : bad + 1], strict=True):
        assert torch.equal(micro_batch[0], there)
    assert saved["progress"]["step"] == trainer.progress.step == bad // accumulation


def test_what_is_saved(tmp_path: Path) -> None:
    """Weights, optimizer, batch, step and random states, as safetensors and JSON with checksums."""
    model = nn.Sequential(nn.Dropout(0.2), positive(), Root())
    trainer = stopped(tmp_path, model, spoiled(3))
    folder = tmp_path / "forensics"
    names = {path.name for path in folder.iterdir()}
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert {"manifest.json", "state.json", "model.safetensors", "batch.safetensors"} <= names
    saved = read_state(folder)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(saved["model"][name], value)
    assert saved["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert set(saved["random"]) == {"python", "numpy", "torch"}
    assert saved["bad"]["what"] == "the loss became nan"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(nn.Sequential(positive(), Root()))
    trainer.train(spoiled(3), 1, per_device_batch_size=2)
    assert trainer.stop_reason
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    class Odd(Stream):
        def __iter__(self) -> Any:
            return iter([[self.inputs[:2] * math.nan, self.targets[:2], {1, 2}]])

    model = nn.Sequential(positive(), Root())
    options = {"num_workers": 0, "batch_size": None}

    class Own(Trainer):
        def create_train_dataloader(self, batch_size: int, train_dl_kwargs: Any = None) -> Any:
            return torch.utils.data.DataLoader(self.train_dataset, **options)

    stopped(tmp_path, model, Odd(), cls=Own)
    with pytest.raises(CheckpointError, match="batch.0.2 is a set"):
        replay(tmp_path, make_trainer(model))


def test_data_that_fails_the_second_time_leaves_the_rest(tmp_path: Path) -> None:
    class Once(MapData):
        def __getitem__(self, index: int) -> Any:
            if index in given:
                raise OSError("gone")
            given.add(index)
            return super().__getitem__(index)

    given: set[int] = set()
    data = Once(24)
    data.inputs = spoiled(13)[0]
    model = nn.Sequential(positive(), Root())
    options = {"train_dataloader_kwargs": {"num_workers": 0}}
    trainer = stopped(tmp_path, model, data, arguments=options)
    assert read_state(tmp_path / "forensics")["progress"]["step"] == trainer.progress.step
    with pytest.raises(CheckpointError, match="could not be saved: OSError: gone"):
        replay(tmp_path, make_trainer(model))


def test_a_full_disk_is_told_and_the_run_ends_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A double stands for the disk; safetensors has an error of its own for it."""

    def write(*arguments: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("loopwright.forensics.write_snapshot", write)
    trainer = make_trainer(nn.Sequential(positive(), Root()), run_dir=tmp_path)
    said: list[str] = []
    trainer.print = lambda *args: said.append(" ".join(map(str, args)))
    trainer.train(spoiled(13), 1, per_device_batch_size=2)
    assert "nan" in trainer.stop_reason
    assert [line for line in said if "No space left" in line] == [
        f"The step could not be saved in {tmp_path / 'forensics'}: No space left on device"
    ]


# ------------------------------------------------------------------------------- replay


@PATHS
def test_the_first_module_with_an_output_that_is_not_finite(tmp_path: Path, reads: bool) -> None:
    def make_model() -> nn.Module:
        return nn.Sequential(positive(), nn.Sequential(nn.ReLU(), Reciprocal()), positive())

    stopped(tmp_path, make_model(), spoiled(13), reads=reads)
    found = replay(tmp_path, make_trainer(make_model()))
    assert (found.place, found.module) == ("output", "'1.1' (Reciprocal)")
    assert "The first output that is not finite is that of '1.1' (Reciprocal)." in str(found)
    assert found.weights == found.batch == ()


def test_dropout_and_batch_norm_fall_as_they_did(tmp_path: Path) -> None:
    """The step is the same to the bit: random states, buffers and modes of modules."""
    losses: list[float] = []

    class Frozen(TrainerCallback):
        def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
            trainer.model[1].eval()
            trainer.model[0].bias.requires_grad_(False)

    class Unlucky(Trainer):
        """Takes a loss of this value for infinite."""

        unlucky: float | None = None

        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super().calculate_train_batch_loss(batch)
            losses.append(output["loss"].item())
            if losses[-1] == self.unlucky or (self.unlucky is None and len(losses) == 5):
                output["loss"] = output["loss"] * math.inf
            return output

    def make_model() -> nn.Module:
        batch_norms = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        return nn.Sequential(positive(3, 5), *batch_norms, nn.Dropout(0.5), positive(5, 3))

    stopped(tmp_path, make_model(), tiny_data(), cls=Unlucky, callbacks=[Frozen])
    trainer = make_trainer(make_model(), cls=Unlucky)
    trainer.unlucky = losses[4]
    states = torch.get_rng_state()
    found = replay(tmp_path, trainer)
    assert losses[5] == losses[4]
    assert (found.place, found.module, found.losses) == ("loss", None, (math.inf,))
    assert "the loss is not: inf" in str(found)
    assert torch.equal(torch.get_rng_state(), states)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_the_first_gradient_that_is_not_finite(tmp_path: Path) -> None:
    """Clipping looks at the norm; the module is the one that made it, not the one it reached."""

    def make_model() -> nn.Module:
        return nn.Sequential(positive(), Gate(), Root(), nn.Identity())

    arguments = {"gradient_clip_norm": 1.0}
    stopped(tmp_path, make_model(), spoiled(13), arguments=arguments)
    found = replay(tmp_path, make_trainer(make_model()))
    assert (found.place, found.module) == ("gradient", "'2' (Root)")
    assert "norm of the gradient" in found.what
    assert "is made by '2' (Root)" in str(found)


@PATHS
def test_a_gradient_in_an_update_that_the_data_leaves_open(tmp_path: Path, reads: bool) -> None:
    """Eleven micro-batches by threes: the norm is known when no more data comes."""
    data = Stream(22)
    data.inputs = spoiled(20, num_samples=22)[0]
    arguments = {
        "gradient_clip_norm": 1.0,
        "gradient_accumulation_steps": 3,
        "train_dataloader_kwargs": {"num_workers": 0},
    }
    model = nn.Sequential(positive(), Gate(), Root())
    trainer = stopped(tmp_path, model, data, reads=reads, arguments=arguments)
    assert trainer.progress.step == 3
    assert len(read_state(tmp_path / "forensics")["batch"]) == 2
    found = replay(tmp_path, make_trainer(nn.Sequential(positive(), Gate(), Root())))
    assert found.module == "'2' (Root)"


def test_a_gradient_that_torch_calls_nan_shows_the_line(tmp_path: Path) -> None:
    class Nan(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.where(inputs > -1e3, inputs, (inputs * 0).sqrt())  # 0 * infinity

    def make_model() -> nn.Module:
        return nn.Sequential(positive(), Nan())

    arguments = {"gradient_clip_norm": 1.0}
    stopped(tmp_path, make_model(), spoiled(13), arguments=arguments)
    found = replay(tmp_path, make_trainer(make_model()))
    assert found.place == "gradient"
    assert found.module == "'1' (Nan)"
    assert "SqrtBackward0" in str(found.trace)
    assert "return torch.where(inputs > -1e3" in str(found)


def test_a_gradient_made_between_modules(tmp_path: Path) -> None:
    def make_model() -> nn.Module:
        return nn.Sequential(Scaled(positive()))

    arguments = {"gradient_clip_norm": 1.0}
    stopped(tmp_path, make_model(), spoiled(13), arguments=arguments)
    found = replay(tmp_path, make_trainer(make_model()))
    assert found.module == "what follows '0.layer' (Linear)"


def test_a_loss_module_is_a_module_too(tmp_path: Path) -> None:
    class Bad(nn.Module):
        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return (outputs.clamp(min=0).mean() - 3).log()

    trainer = stopped(tmp_path, positive(), spoiled(13), loss=Bad())
    found = replay(tmp_path, trainer)
    assert (found.place, found.module) == ("output", "'loss_func' (Bad)")


def test_a_batch_that_is_not_finite_is_told(tmp_path: Path) -> None:
    trainer = stopped(tmp_path, tiny_model(), spoiled(13, math.nan))
    found = replay(tmp_path / "forensics", trainer)
    assert found.batch == ("batch.0.0 (3 of 6)",)
    assert found.module == "'0' (Linear)"


def test_a_step_that_is_finite_this_time(tmp_path: Path) -> None:
    class Once(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super().calculate_train_batch_loss(batch)
            return {**output, "loss": output["loss"] * math.nan}

    stopped(tmp_path, tiny_model(), tiny_data(), cls=Once)
    found = replay(tmp_path, make_trainer(tiny_model()))
    assert found.place is None
    assert "finite this time" in str(found)


def test_several_optimizers_and_their_losses(tmp_path: Path) -> None:
    class Two(Trainer):
        def train_step(self, batch: Any) -> Any:
            for name in self.optimizer:
                loss = self.loss_func(self.model(batch[0]), batch[1])
                self.update(loss * math.nan if name == "last" else loss, name)

    def make() -> Any:
        model = tiny_model()
        layers = {"first": model[0], "last": model[3]}
        optimizers = {
            name: torch.optim.SGD(each.parameters(), lr=0.1) for name, each in layers.items()
        }
        trainer = make_trainer(model, cls=Two, run_dir=tmp_path)
        trainer.optimizer = optimizers
        return trainer

    make().train(tiny_data(), 1)
    found = replay(tmp_path, make())
    assert found.place == "loss"
    assert math.isnan(found.losses[-1])


def test_the_trainer_is_left_usable(tmp_path: Path) -> None:
    model = nn.Sequential(positive(), Root())
    stopped(tmp_path, model, spoiled(13))
    trainer = make_trainer(nn.Sequential(positive(), Root()))
    attributes = set(vars(trainer))
    replay(tmp_path, trainer)
    assert set(vars(trainer)) == attributes
    assert len(list(trainer.callback_handler)) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trainer.model.modules())
    trainer.train(tiny_data(), 1)
    assert trainer.progress.step == 2


def test_what_is_no_step_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model())
    with pytest.raises(CheckpointError, match="holds no step to replay. Expected the folder"):
        replay(tmp_path, trainer)
    run = tmp_path / "run"
    stopped(run, nn.Sequential(positive(), Root()), spoiled(13))
    with pytest.raises(CheckpointError, match="the saved model lacks 3.bias, 3.weight"):
        replay(run, trainer)
    with pytest.raises(CheckpointError, match="precision 'fp32', and this trainer has 'bf16'"):
        replay(run, make_trainer(nn.Sequential(positive(), Root()), precision="bf16"))
    with (run / "forensics" / "batch.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match="batch.safetensors is damaged"):
        replay(run, make_trainer(nn.Sequential(positive(), Root())))


def test_a_replay_is_a_plain_value() -> None:
    found = Replay(
        "the loss became nan", 1, 4, (1.0,), None, None, (), ("0.weight (1 of 3)",), None
    )
    assert "weights were not finite before the step: 0.weight (1 of 3), so a gradient" in str(found)

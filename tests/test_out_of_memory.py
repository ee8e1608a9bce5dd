"""Tests of running out of memory: what is told, and going on with micro-batches in parts."""

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny import Stream, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.default_callbacks import TerminateOnNaNCallback
from loopwright.errors import CheckpointError, OutOfMemoryError
from loopwright.events import TrainerCallback
from loopwright.forensics import replay
from loopwright.out_of_memory import is_out_of_memory, split_batch
from loopwright.trainer import Trainer

REAL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
SOURCE = Path(__file__).parents[1] / "src"


class _Full(torch.autograd.Function):
    """Runs out of memory in the backward of many samples."""

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor, most: int) -> torch.Tensor:
        context.is_full = len(inputs) > most
        return inputs.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        if context.is_full:
            raise RuntimeError(REAL)
        return gradients[0], None


class Small(Trainer):
    """Has memory for so many samples, from some step on."""

    most, since, where = 3, 0, "forward"
    error: Exception = RuntimeError(REAL)

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        is_small = self.progress.step >= self.since
        if is_small and self.where == "forward" and len(batch[0]) > self.most:
            raise self.error
        if is_small and self.where == "backward":
            inputs = batch[0].clone().requires_grad_()
            batch = [_Full.apply(inputs, self.most), *batch[1:]]  # type: ignore[no-untyped-call]
        return super().calculate_train_batch_loss(batch)


def make_trainer(cls: Any = Small, *, dropout: float = 0.0, **options: Any) -> Any:
    options.setdefault("on_out_of_memory", "split")
    dtype = options.pop("dtype", torch.float64)
    model = tiny_model(dropout=dropout, dtype=dtype)
    trainer = tiny_trainer(cls, model, **options)
    trainer.said = []
    trainer.print = lambda *args: trainer.said.append(" ".join(map(str, args)))
    return trainer


def train(trainer: Any, *, samples: int = 22, **arguments: Any) -> Any:
    data = tiny_data(samples, dtype=torch.float64)
    arguments = {"per_device_batch_size": 8, "num_epochs": 2} | arguments
    torch.manual_seed(7)
    trainer.train(data, **arguments)
    return trainer


# --------------------------------------------------------------------------- splitting


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 3, 5])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_parts_give_the_gradient_of_the_whole_batch(
    where: str, accumulation: int, most: int, clip: float | None
) -> None:
    """Weights and losses are those of a run that had the memory (float64: 1e-12)."""
    arguments = {"gradient_accumulation_steps": accumulation, "gradient_clip_norm": clip}
    reference = train(make_trainer(Trainer), **arguments)
    trainer = make_trainer()
    trainer.most, trainer.where, trainer.since = most, where, 1
    train(trainer, **arguments)
    for value, expected in zip(weights(trainer), weights(reference), strict=True):
        assert (value - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert vars(trainer.progress) == vars(reference.progress)
    losses = trainer.run_history.get_metric_values("train_loss_epoch")
    expected_losses = reference.run_history.get_metric_values("train_loss_epoch")
    assert losses == pytest.approx(expected_losses, rel=1e-12)
    assert trainer._splitter.num_parts == {1: 8, 3: 4, 5: 2}[most]
    assert "going on with micro-batches in 2 parts" in trainer.said[0]


def test_with_data_of_unknown_length_and_items() -> None:
    """Counts of items weigh, and an update that the data leaves open is completed."""

    class Items(Small):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            super().calculate_train_batch_loss(batch)
            weight = batch[1] + 1.0
            losses = nn.functional.cross_entropy(self.model(batch[0]), batch[1], reduction="none")
            count = weight.sum()
            loss = (losses * weight).sum() / count
            return {"loss": loss, "batch_size": len(weight), "num_items_in_batch": count}

    found = []
    for most in (99, 3):
        trainer = make_trainer(Items)
        trainer.most = most
        trainer.train(
            Stream(22, dtype=torch.float64),
            1,
            per_device_batch_size=8,
            gradient_accumulation_steps=2,
            train_dataloader_kwargs={"num_workers": 0},
        )
        found.append((weights(trainer), trainer.progress.step))
    assert found[0][1] == found[1][1] == 2
    for value, expected in zip(found[1][0], found[0][0], strict=True):
        assert torch.allclose(value, expected, rtol=1e-12, atol=1e-14)


def test_several_optimizers_are_split_as_one_batch() -> None:
    class Two(Small):
        def train_step(self, batch: Any) -> Any:
            output = self.calculate_train_batch_loss(batch)
            self.update(output["loss"], "first", retain_graph=True)
            self.update(output["loss"] * 2, "last")
            return output

    found = []
    for most in (99, 3):
        trainer = make_trainer(Two)
        trainer.optimizer = {
            name: torch.optim.SGD(trainer.model[index].parameters(), lr=0.1)
            for name, index in (("first", 0), ("last", 3))
        }
        trainer.most = most
        train(trainer, samples=16)
        found.append((weights(trainer), trainer.run_history._metrics))
    for value, expected in zip(found[1][0], found[0][0], strict=True):
        assert torch.allclose(value, expected, rtol=1e-12, atol=1e-14)
    assert found[0][1].keys() == found[1][1].keys()


def test_the_step_begins_again_from_the_same_random_states() -> None:
    """Splitting is a function of the state: the run can be repeated, dropout included."""
    runs = [train(make_trainer(dropout=0.5)) for _ in range(2)]
    assert same(weights(runs[0]), weights(runs[1]))

    class Drawn(Small):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            draws.append(torch.rand(1).item())
            return super().calculate_train_batch_loss(batch)

    draws: list[float] = []
    train(make_trainer(Drawn), max_num_train_steps=1)
    assert draws[0] == draws[1] == draws[2]  # whole, then the first of two and of four parts


def test_resuming_keeps_the_number_of_parts(tmp_path: Path) -> None:
    """A run that goes on after the split ends with the same bits as one that never stopped."""

    def make(folder: str) -> Any:
        trainer = make_trainer(
            dropout=0.5,
            run_dir=tmp_path / folder,
            checkpoint=CheckpointPolicy(every_steps=1, keep_latest=99),
        )
        trainer.since = 2
        return trainer

    whole = train(make("whole"))
    assert whole._splitter.num_parts == 4
    for step in (1, 2, 4):
        again = make_trainer(dropout=0.5)
        again.since = 2
        train(again, resume=tmp_path / "whole" / "checkpoints" / f"step-{step:08d}")
        assert same(weights(whole), weights(again)), step
        assert len(again.said) == (2 if step < 3 else 0)
    other = make_trainer(on_out_of_memory="stop")
    with pytest.raises(CheckpointError, match="on_out_of_memory: 'split' then, 'stop' now"):
        train(other, resume=tmp_path / "whole" / "checkpoints" / "step-00000004")


def test_buffers_and_losses_of_the_failed_attempt_do_not_stay() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("samples", torch.zeros(()))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.samples += len(inputs)
            return inputs

    trainer = make_trainer()
    trainer.where = "backward"
    trainer.model = nn.Sequential(Counting(), trainer.model)
    train(trainer)
    assert trainer.model[0].samples == trainer.progress.samples == 44


def test_a_bad_loss_in_a_part_undoes_the_whole_step(tmp_path: Path) -> None:
    largest = tiny_data(22, dtype=torch.float64)[0].max()

    class Bad(Small):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super().calculate_train_batch_loss(batch)
            if (batch[0] == largest).any():
                output["loss"] = output["loss"] * float("inf")
            return output

    for samples in (22, Stream(22, dtype=torch.float64)):
        folder = tmp_path / type(samples).__name__
        trainer = make_trainer(Bad, callbacks=[TerminateOnNaNCallback], run_dir=folder)
        data = tiny_data(22, dtype=torch.float64) if samples == 22 else samples
        workers = {"num_workers": 0}
        trainer.train(data, 1, per_device_batch_size=8, train_dataloader_kwargs=workers)
        assert "inf" in trainer.stop_reason
        found = replay(folder, make_trainer(Bad))
        assert found.place == "loss"
        assert found.losses == (float("inf"),)
        assert trainer.progress.samples % 8 == 0


def test_fp16_and_a_scaler() -> None:
    trainer = make_trainer(precision="fp16", dtype=torch.float32)
    trainer.where = "backward"
    trainer.train(tiny_data(22), 1, per_device_batch_size=8, gradient_clip_norm=1.0)
    assert trainer.progress.step == 3
    assert trainer._splitter.num_parts == 4


# ---------------------------------------------------------------- what cannot be split


def refused(trainer: Any, **arguments: Any) -> str:
    with pytest.raises(OutOfMemoryError) as caught:
        train(trainer, **arguments)
    return str(caught.value)


def test_batch_norm_in_training_is_not_split() -> None:
    trainer = make_trainer()
    trainer.model.insert(1, nn.BatchNorm1d(5, dtype=torch.float64))
    message = refused(trainer)
    assert "was not split: batch norm in training (1) takes its statistics over" in message

    class Frozen(TrainerCallback):
        def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
            trainer.model[1].eval()

    trainer.callback_handler.add_callback(Frozen)
    train(trainer)
    assert trainer._splitter.num_parts == 4


def test_single_samples_are_not_split() -> None:
    trainer = make_trainer()
    trainer.most = 0
    assert "its parts have one sample each (of 8)" in refused(trainer)


def test_an_update_is_not_done_twice() -> None:
    class Full(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise RuntimeError(REAL)

    trainer = make_trainer()
    trainer.most = 99
    trainer.optimizer = Full(trainer.model.parameters(), lr=0.1)
    assert "an optimizer had begun its update" in refused(trainer)


def test_a_batch_without_rows_is_not_split() -> None:
    class Odd(Stream):
        def __iter__(self) -> Any:
            return iter([{"x": self.inputs, "y": self.targets, "scale": torch.ones(2)}])

    class Own(Small):
        def create_train_dataloader(self, batch_size: int, train_dl_kwargs: Any = None) -> Any:
            return list(self.train_dataset)

        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            return super().calculate_train_batch_loss([batch["x"], batch["y"]])

    trainer = make_trainer(Own)
    with pytest.raises(OutOfMemoryError, match=r"it holds a tensor of shape \[2\] beside its 12"):
        trainer.train(Odd(12, dtype=torch.float64), 1)


class Pair(NamedTuple):
    x: torch.Tensor
    name: list[str]


def test_split_batch() -> None:
    rows = torch.arange(10).view(5, 2)
    parts = split_batch({"pair": Pair(rows, list("abcde")), "none": None, "t": (rows[:, 0],)}, 2)
    assert [type(part["pair"]) for part in parts] == [Pair, Pair]
    assert [part["pair"].name for part in parts] == [["a", "b"], ["c", "d", "e"]]
    assert torch.equal(torch.cat([part["pair"].x for part in parts]), rows)
    assert torch.equal(torch.cat([part["t"][0] for part in parts]), rows[:, 0])
    assert [len(part) for part in split_batch(rows, 99)] == [1] * 5
    two = split_batch([rows[:2], rows[:2, 0]], 2)  # two samples in two tensors
    assert [[len(each) for each in part] for part in two] == [[1, 1], [1, 1]]
    for odd in (3.5, torch.ones(()), torch.ones(4), [torch.ones(3), torch.ones(4)]):
        with pytest.raises(ValueError, match="beside its 5 samples"):
            split_batch([rows, odd], 2)


# ------------------------------------------------------------------------ what is told


def test_the_message_tells_sizes_and_what_to_lower() -> None:
    trainer = make_trainer(on_out_of_memory="stop", dtype=torch.float32)
    trainer.optimizer = torch.optim.Adam(trainer.model.parameters())
    trainer.since = 2
    with pytest.raises(OutOfMemoryError) as caught:
        trainer.train(tiny_data(22), 2, per_device_batch_size=8)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Out of memory on cpu in train, epoch 1, after step 2: [enforce")
    assert lines[1] == "Micro-batch: 6 samples ([6, 3] float32, [6] int64)."
    assert lines[2] == (
        "Precision: fp32. Parameters: 0.0 MB, their gradients as much; state of the optimizer: "
        "0.0 MB."
    )
    assert "Lower per_device_batch_size and raise gradient_accumulation_steps" in lines[3]
    assert "Trainer(on_out_of_memory='split')" in lines[3]
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize(
    ("error", "is_known"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (MemoryError(), True),
        (RuntimeError(REAL), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("x"), False),
        (OutOfMemoryError("told"), False),
    ],
)
def test_what_is_taken_for_running_out_of_memory(error: Exception, is_known: bool) -> None:
    """The errors of CUDA and of the host; a double stands for a device that is full."""
    assert is_out_of_memory(error) == is_known
    trainer = make_trainer()
    trainer.error = error
    if is_known:
        train(trainer)
        assert trainer._splitter.num_parts == 4
    else:
        with pytest.raises(type(error)) as caught:
            train(trainer)
        assert caught.value is error
    trainer = make_trainer(on_out_of_memory="stop")
    trainer.error = error
    with pytest.raises(OutOfMemoryError if is_known else type(error)):
        train(trainer)


def test_an_evaluation_tells_it_too() -> None:
    class Full(Trainer):
        def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
            raise MemoryError

    with pytest.raises(OutOfMemoryError, match=r"in eval(.|\n)*Lower per_device_batch_size\.$"):
        make_trainer(Full).evaluate(tiny_data(dtype=torch.float64))


def test_an_error_that_is_kept_keeps_no_activations() -> None:
    alive: list[Any] = []

    class Seeing(Small):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            activation = self.model[0](batch[0])
            alive.append(weakref.ref(activation))
            return super().calculate_train_batch_loss(batch)

    trainer = make_trainer(Seeing, on_out_of_memory="stop")
    trainer.error = RuntimeError(REAL)
    with pytest.raises(OutOfMemoryError) as caught:
        train(trainer)
    gc.collect()
    assert alive
    assert all(each() is None for each in alive)
    assert caught.value.__cause__ is trainer.error


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="on_out_of_memory is 'retry'; expected 'stop' or 'split'"):
        make_trainer(on_out_of_memory="retry")


PROGRAM = """
import json, resource, torch
from torch import nn
from loopwright import Trainer

class Wide(nn.Module):
    # Activations of 4 MB per sample, which backward needs.
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
    def forward(self, inputs):
        return torch.sin(self.layer(inputs)[:, :, None].expand(-1, -1, 2 ** 18)).mean(2)

def run(**options):
    torch.manual_seed(0)
    model = Wide()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, nn.MSELoss(), optimizer, callbacks=(), seed=0, device="cpu", **options)
    data, error = (torch.randn(64, 4), torch.randn(64, 4)), None
    try:
        trainer.train(data, 1, per_device_batch_size=64)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    return error, model.layer.weight.flatten().tolist()

Wide()(torch.randn(1, 4)).sum().backward()  # loads what is loaded late
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 550 * 2 ** 20, most))
found = [run(), run(on_out_of_memory="split")]
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(json.dumps([*found, run()]))
"""


@pytest.mark.faults
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_a_host_that_is_really_full() -> None:
    """RLIMIT_AS: the allocator fails; the run stops with the message, or goes on in parts."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    *said, last = ended.stdout.splitlines()
    (stopped, _), (error, weights), (_, expected) = json.loads(last)
    assert stopped.startswith("OutOfMemoryError: Out of memory on cpu in train, epoch 1, after")
    assert "DefaultCPUAllocator: can't allocate memory" in stopped
    assert "Micro-batch: 64 samples ([64, 4] float32, [64, 4] float32)." in stopped
    assert error is None
    assert "going on with micro-batches in 2 parts" in said[0]
    assert weights == pytest.approx(expected, rel=1e-5)

"""The task of the fault tests: 152 steps with dropout, batch norm, augmentation and a schedule.

600 samples of 20 features in 3 classes, Adam, a cosine rate per step, batches of 16 in a shuffled
order, an augmentation per sample that draws from torch's global generator.
"""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from loopwright.callbacks import TrainerCallback
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.data import epoch_order
from loopwright.trainer import Trainer, TrainerPlaceholderValues

NUM_SAMPLES, NUM_STEPS, NUM_EPOCHS, BATCH = 600, 152, 4, 16


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs [600, 20] and classes 0 to 2."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(NUM_SAMPLES, 20, generator=generator)
    return inputs, (inputs[:, :3] + inputs[:, 3:6] * 0.3).argmax(dim=1)


class Augmented(Dataset[Any]):
    """Adds noise from the global generator to each sample."""

    def __init__(self) -> None:
        self.inputs, self.targets = make_data()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index] + 0.1 * torch.randn(20), self.targets[index]


class Stream(IterableDataset[Any]):
    """Gives the same samples in a fixed order, with the same noise."""

    def __iter__(self) -> Any:
        data = Augmented()
        return (data[int(index)] for index in epoch_order(len(data), 7, 1))

    def __len__(self) -> int:
        return NUM_SAMPLES


def make_model() -> nn.Module:
    """Return the network, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3)
        )


def backend(graph: Any, inputs: Any) -> Any:
    """Is the last stage of `torch.compile`, which leaves a graph as it is."""
    return graph.forward


class OwnLoader(Trainer):
    """Trains over a DataLoader that the user made."""

    num_workers = 0

    def create_train_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        return DataLoader(
            self.train_dataset, batch_size=BATCH, shuffle=True, num_workers=self.num_workers
        )


class TwoOptimizers(Trainer):
    """Updates the two layers with optimizers of their own, from two losses."""

    def train_step(self, batch: Any) -> Any:
        outputs = self.model(batch[0])
        loss = self.loss_func(outputs, batch[1])
        self.update(loss, "first", retain_graph=True)
        loss = self.loss_func(self.model(batch[0]), batch[1])
        self.update(loss, "second")
        return {"loss": loss, "batch_size": len(batch[0])}


class KillAt(TrainerCallback):
    """Sends this process a signal when the step before `step` is complete."""

    def __init__(self, step: int, number: int = signal.SIGKILL) -> None:
        self.step, self.number = step, number

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.step + 1 == self.step:
            self.step = -1
            os.kill(os.getpid(), self.number)


def make_trainer(
    folder: str | os.PathLike[str],
    *callbacks: TrainerCallback,
    data: str = "map",
    num_optimizers: int = 1,
    policy: CheckpointPolicy | None = None,
    compiled: bool = False,
    step_mode: Any = "eager",
) -> Trainer:
    """Return the trainer of the task."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model: Any = make_model()
    cls = {"own": OwnLoader}.get(data, Trainer)
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=1e-2)
    if num_optimizers == 2:
        cls = type("Two", (TwoOptimizers, cls), {})
        layers = {"first": model[:2], "second": model[2:]}
        optimizer = {n: torch.optim.Adam(m.parameters(), lr=1e-2) for n, m in layers.items()}
    if compiled:
        model = torch.compile(model, backend=backend)
    policy = policy or CheckpointPolicy(every_steps=7)
    loss = nn.CrossEntropyLoss()
    kept: dict[str, Any] = {"run_dir": folder, "checkpoint": policy}
    return cls(model, loss, optimizer, callbacks, seed=11, step_mode=step_mode, **kept)


def run(
    folder: str | os.PathLike[str],
    *callbacks: TrainerCallback,
    data: str = "map",
    num_workers: int = 0,
    accumulation: int = 1,
    num_optimizers: int = 1,
    every_steps: int = 7,
    quiet: bool = True,
    compiled: bool = False,
    stop_when_save_fails: bool = False,
    step_mode: str = "eager",
    cache: str | None = None,
) -> Trainer:
    """Run the task, or go on with it; `cache` is where compiled steps are kept."""
    if cache is not None:
        os.environ["XDG_CACHE_HOME"] = cache
    trainer = make_trainer(
        folder,
        *callbacks,
        data=data,
        num_optimizers=num_optimizers,
        policy=CheckpointPolicy(every_steps=every_steps, stop_when_save_fails=stop_when_save_fails),
        compiled=compiled,
        step_mode=step_mode,
    )
    if quiet:
        trainer.print = lambda *args, **kwargs: None  # type: ignore[method-assign]
    if isinstance(trainer, OwnLoader):
        trainer.num_workers = num_workers
    datasets = {"memory": make_data, "map": Augmented, "own": Augmented, "stream": Stream}
    schedule = partial(
        torch.optim.lr_scheduler.CosineAnnealingLR,
        T_max=TrainerPlaceholderValues.NUM_EPOCHS
        * TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH,
    )
    trainer.train(
        datasets[data](),
        NUM_EPOCHS,
        make_data(),
        per_device_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        create_scheduler_fn=schedule,
        train_dataloader_kwargs={} if data == "own" else {"num_workers": num_workers},
        eval_dataloader_kwargs={"num_workers": 0},
        resume="latest",
    )
    return trainer


def outcome(trainer: Trainer) -> dict[str, Any]:
    """Return all that has to be the same: weights, optimizers, rates, history."""
    optimizers = trainer.optimizer
    if not isinstance(optimizers, dict):
        optimizers = {"": optimizers}
    return {
        "weights": trainer.model.state_dict(),
        "optimizers": {name: each.state_dict() for name, each in optimizers.items()},
        "history": {
            name: trainer.run_history.get_metric_values(name)
            for name in sorted(trainer.run_history.get_metric_names())
        },
        "step": trainer.progress.step,
    }


def log_of(folder: Path) -> list[Any]:
    """Return the metrics log without times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]

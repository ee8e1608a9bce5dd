"""What a checkpoint costs the training that goes on, and what going on far into an epoch costs.

Run ``python benchmarks/checkpoints.py`` where loopwright is installed: prints two Markdown tables.
The first is of one run with a state of 200 MB. It saves in the background, saves synchronously
(with checksum and fsync too), and copies its state in memory, at steps of their own, so that all
three meet the same machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from loopwright import CheckpointPolicy, RunInterrupted, Trainer, TrainerCallback

WINDOW = 12
"""Steps between one event and the next."""


class Watch(TrainerCallback):
    """Notes when steps begin and end; copies and saves where it is their turn.

    In every three windows the first begins with a checkpoint of the policy, the second with a
    synchronous save, the third with a copy in memory, without which it tells what steps take.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.copies: list[float] = []
        self.kept: list[torch.Tensor] = []

    def on_train_step_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Do what is due before this step; a checkpoint of the policy has just been taken."""
        window, position = divmod(trainer.progress.step, WINDOW)
        if position == 0 and window % 3 == 1:
            trainer.save_training_state(self.folder)
        if position == 0 and window % 3 == 2:
            self.copy(trainer)
        self.begins.append(time.perf_counter())

    def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Note the end."""
        self.ends.append(time.perf_counter())

    def copy(self, trainer: Trainer) -> None:
        """Copy weights and the optimizer's state into memory that is kept."""
        state = [p.detach() for p in trainer.model.parameters()]
        state += [
            value
            for each in trainer.optimizer.state.values()
            for value in each.values()
            if isinstance(value, torch.Tensor)
        ]
        self.kept = self.kept or [torch.empty_like(value) for value in state]
        began = time.perf_counter()
        for kept, value in zip(self.kept, state, strict=True):
            kept.copy_(value)
        self.copies.append(time.perf_counter() - began)


def measure_saves(megabytes: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Returns seconds by name, one of each per round."""
    width = int((megabytes * 1e6 / 12 / 4) ** 0.5)  # Adam keeps two values beside each weight
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    watch = Watch(folder / "state")
    trainer = Trainer(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.Adam(model.parameters(), fused=True),
        callbacks=[watch],
        run_dir=folder / "run",
        checkpoint=CheckpointPolicy(every_steps=3 * WINDOW),
        seed=0,
    )
    num_steps = 3 * WINDOW * (rounds + 1)
    data = torch.randn(16 * 100, width), torch.randint(0, 10, (1600,))
    trainer.train(data, None, per_device_batch_size=16, max_num_train_steps=num_steps)
    gap = statistics.median(b - e for b, e in zip(watch.begins[1:], watch.ends[:-1], strict=True))
    found: dict[str, list[float]] = {"copy": watch.copies[1:]}
    windows: dict[str, list[float]] = {}
    for number, name in enumerate(("background", "synchronous", "neither")):
        starts = range((3 + number) * WINDOW, num_steps, 3 * WINDOW)
        found[f"{name}: stall"] = [watch.begins[s] - watch.ends[s - 1] - gap for s in starts]
        windows[name] = [watch.ends[s + WINDOW - 1] - watch.ends[s - 1] for s in starts]
    quiet = [whole - copy for whole, copy in zip(windows["neither"], watch.copies[1:], strict=True)]
    found[f"neither: {WINDOW} steps"] = quiet
    for name in ("background", "synchronous"):
        found[f"{name}: stall and slowdown"] = [
            whole - without for whole, without in zip(windows[name], quiet, strict=True)
        ]
    del found["neither: stall"]
    return found


class Counted(Dataset[Any]):
    """Makes samples one by one, and counts them."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.num_made = 0

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Any:
        self.num_made += 1
        return torch.full((8,), float(index % 7)), index % 3


class StopAt(TrainerCallback):
    """Ends the run at a step, as a signal would; notes when the first step of a run is done."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.first_step_at: float | None = None
        self.num_made = 0

    def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        """Note the time and the samples made by then, and ask for the end."""
        if self.first_step_at is None:
            self.first_step_at, self.num_made = time.perf_counter(), trainer.train_dataset.num_made
        if trainer.progress.step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def measure_start(folder: Path, step: int, *, resume: str | None) -> tuple[float, int]:
    """Returns the seconds to the first step of a run that `step` ends, and samples made by then."""
    torch.manual_seed(0)
    model, stop, data = nn.Linear(8, 3), StopAt(step), Counted(250_000)
    trainer = Trainer(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.01),
        callbacks=[stop],
        run_dir=folder,
        seed=0,
    )
    began = time.perf_counter()
    with suppress(RunInterrupted):
        trainer.train(
            data,
            1,
            per_device_batch_size=2,
            train_dataloader_kwargs={"num_workers": 0},
            resume=resume,
        )
    assert stop.first_step_at is not None
    return stop.first_step_at - began, stop.num_made


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", help="where to write (default: the folder for temporary files)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        found = measure_saves(arguments.megabytes, arguments.rounds, Path(place))
        print("| seconds | median | least | most |")
        print("|---|--:|--:|--:|")
        for name, values in found.items():
            print(
                f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} "
                f"| {max(values):.3f} |"
            )
        middle = {name: statistics.median(values) for name, values in found.items()}
        print(f"\nstall / copy: {middle['background: stall'] / middle['copy']:.2f} (bar: 2)")
        both = "stall and slowdown"
        print(
            "background / synchronous, stall and slowdown: "
            f"{middle[f'background: {both}'] / middle[f'synchronous: {both}']:.2f} (bar: 1)\n"
        )
        print("| start | seconds to the first step | samples made in it |")
        print("|---|--:|--:|")
        fresh, made = measure_start(Path(place, "far"), 100_000, resume=None)
        print(f"| at step 0 | {fresh:.3f} | {made} |", flush=True)
        late, made = measure_start(Path(place, "far"), 100_001, resume="latest")
        print(f"| at step 100,000 | {late:.3f} | {made} |")


if __name__ == "__main__":
    main()

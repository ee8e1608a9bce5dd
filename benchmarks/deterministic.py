"""What `deterministic=True` costs: epochs with and without it, taking turns in one process.

Run ``python benchmarks/deterministic.py [--device cuda]`` where loopwright is installed: prints one
Markdown table. Each epoch is compared with the one of the other kind that follows it; on a CPU by
CPU time, which others who use the machine disturb less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import Tensor, nn
from workloads import make

from loopwright import Trainer

Data = tuple[Tensor, Tensor]


class Lookup(nn.Module):
    """Sums rows of a table by index, whose gradient adds to the same rows many times over."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1000, 64) * 0.1)
        self.head = nn.Linear(64, 10)

    def forward(self, rows: Tensor) -> Tensor:
        """Takes row numbers [batch, 32] and returns logits [batch, 10]."""
        logits: Tensor = self.head(self.table[rows].sum(dim=1))
        return logits


def lookup_data() -> Data:
    """Returns row numbers [19_968, 32] and classes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 1000, (19_968, 32), generator=generator)
    return rows, rows[:, 0] % 10


def make_trainer(model: nn.Module, *, deterministic: bool, device: str) -> Trainer:
    """Returns a trainer without callbacks, so that the step is all that is measured."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Trainer(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        callbacks=(),
        device=device,
        deterministic=deterministic,
        seed=0,
    )


def measure(create: Callable[[], nn.Module], data: Data, device: str, turns: int) -> list[float]:
    """Returns microseconds per step without and with, and the ratios of neighbouring epochs."""
    torch.manual_seed(1)
    trainers = [make_trainer(create(), deterministic=kind, device=device) for kind in (False, True)]
    times: list[list[float]] = [[], []]
    clock = time.process_time if device == "cpu" else time.perf_counter
    for turn in range(turns + 1):
        for trainer, kept in zip(trainers, times, strict=True):
            began = clock()
            trainer.train(data, 1, per_device_batch_size=64)
            if device != "cpu":
                torch.accelerator.synchronize()
            if turn:  # the first epoch of each warms up
                kept.append(clock() - began)
    steps = len(data[0]) / 64
    ratios = [with_it / without for without, with_it in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return [*(1e6 * statistics.median(kept) / steps for kept in times), middle, low, high]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=25, help="epochs of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| workload | default, µs/step | deterministic | ratio | quartiles |")
    print("|---|--:|--:|--:|--:|")
    for name in ("W1", "W3", "lookup"):
        if name == "lookup":
            create, data = Lookup, lookup_data()
        else:
            work = make(name)
            create, data = work.spec.model, (work.x, work.y)
        without, with_it, ratio, low, high = measure(
            create, data, arguments.device, arguments.turns
        )
        print(
            f"| {name} | {without:.0f} | {with_it:.0f} | {ratio:.3f} | {low:.3f}..{high:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

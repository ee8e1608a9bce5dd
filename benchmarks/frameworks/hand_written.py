"""The loops that a person would write; the references of every ratio.

`fused` takes whole batches by index with the workload's optimizer (``fused=True``), `unfused` is
the same without that flag, `loader` goes over an ordinary DataLoader.
"""

from __future__ import annotations

import torch
from clock import Clock
from torch import Tensor
from torch.nn.functional import cross_entropy
from workloads import Work

VARIANTS = ("fused", "unfused", "loader")


class InMemory:
    """Training that takes whole batches by index from tensors in memory."""

    def __init__(self, work: Work, *, fused: bool = True) -> None:
        self.work = work
        self.model = work.model()
        settings = work.settings | {"fused": fused}
        self.optimizer = work.spec.optimizer(self.model.parameters(), **settings)

    def epoch(self) -> float:
        """Trains one epoch in a new random order and returns the mean loss."""
        x, y, model, optimizer = self.work.x, self.work.y, self.model, self.optimizer
        order = torch.randperm(len(x))
        total, steps = 0.0, 0
        for rows in order.split(self.work.batch_size):
            loss = cross_entropy(model(x.index_select(0, rows)), y.index_select(0, rows))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
            steps += 1
        return total / steps


class OverLoader(InMemory):
    """Training over the DataLoader that a user would make."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.loader = work.train_loader()

    def epoch(self) -> float:
        """Trains one epoch and returns the mean loss."""
        model, optimizer = self.model, self.optimizer
        total, steps = 0.0, 0
        for x, y in self.loader:
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
            steps += 1
        return total / steps


def train(work: Work, clock: Clock, variant: str) -> None:
    """Trains all epochs."""
    run = OverLoader(work) if variant == "loader" else InMemory(work, fused=variant == "fused")
    for _ in range(work.epochs):
        clock.lap(run.epoch())


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and then evaluates in every epoch; laps record the evaluation loss."""
    run = OverLoader(work) if variant == "loader" else InMemory(work, fused=variant == "fused")
    batches = work.eval_loader() if variant == "loader" else Slices(work)
    for _ in range(work.epochs):
        run.epoch()
        run.model.eval()
        total, steps = 0.0, 0
        with torch.inference_mode():
            for x, y in batches:
                total += cross_entropy(run.model(x), y).item()
                steps += 1
        run.model.train()
        clock.lap(total / steps)


class Slices:
    """The evaluation data as a sequence of slices, nothing copied."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __iter__(self):
        """Yields (inputs, targets) in order."""
        size = self.work.batch_size
        return zip(self.work.eval_x.split(size), self.work.eval_y.split(size), strict=True)


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Returns the outputs for all samples, in order."""
    model = work.model().eval()
    loader = work.predict_loader()
    for _ in range(work.epochs):
        with torch.inference_mode():
            if variant == "loader":
                outputs = torch.cat([model(x) for (x,) in loader])
            else:
                outputs = torch.cat([model(x) for x in work.x.split(work.batch_size)])
        clock.lap()
    return outputs

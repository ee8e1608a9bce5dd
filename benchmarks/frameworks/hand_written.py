"""The loops that a person would write; the references of every ratio.

`fused` takes whole batches by index with the workload's optimizer (``fused=True``), `unfused` is
the same without that flag, `loader` goes over an ordinary DataLoader of a TensorDataset, `samples`
(in paired.py alone) over one of a dataset that makes its samples one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

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

    def __init__(self, work: Work, variant: str = "loader") -> None:
        super().__init__(work)
        self.loader = work.train_loader(variant)

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


class Reevaluated(OverLoader):
    """The same, with the mean loss of the training data after each epoch."""

    def epoch(self) -> float:
        """Trains one epoch, evaluates it, and returns the evaluated loss."""
        super().epoch()
        self.model.eval()
        total, steps = 0.0, 0
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for x, y in self.loader:
                total += cross_entropy(self.model(x), y).item()
                steps += 1
        self.model.train()
        return total / steps


class Slices:
    """The evaluation data as slices, nothing copied."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (inputs, targets) in order."""
        size = self.work.batch_size
        return zip(self.work.eval_x.split(size), self.work.eval_y.split(size), strict=True)


def repeated(work: Work, kind: str, variant: str) -> Callable[[], Any]:
    """Returns what one lap runs: a function without arguments."""
    if kind == "predict":
        return predicting(work, variant)
    if variant == "reevaluated":
        return Reevaluated(work).epoch
    over_loader = variant in ("loader", "samples")
    run = OverLoader(work, variant) if over_loader else InMemory(work, fused=variant == "fused")
    return run.epoch if kind == "train" else evaluating(work, run, variant)


def evaluating(work: Work, run: InMemory, variant: str) -> Callable[[], float]:
    """Returns a function that trains and evaluates one epoch and returns the evaluation loss."""
    batches = work.eval_loader() if variant == "loader" else Slices(work)

    def lap() -> float:
        run.epoch()
        run.model.eval()
        total, steps = 0.0, 0
        with torch.inference_mode():
            for x, y in batches:
                total += cross_entropy(run.model(x), y).item()
                steps += 1
        run.model.train()
        return total / steps

    return lap


def predicting(work: Work, variant: str) -> Callable[[], Tensor]:
    """Returns a function that returns the outputs for all samples, in order."""
    model, loader = work.model().eval(), work.predict_loader()

    def lap() -> Tensor:
        with torch.inference_mode():
            if variant == "loader":
                return torch.cat([model(x) for (x,) in loader])
            return torch.cat([model(x) for x in work.x.split(work.batch_size)])

    return lap


def train(work: Work, clock: Clock, variant: str) -> None:
    """Trains all epochs."""
    lap = repeated(work, "train", variant)
    for _ in range(work.epochs):
        clock.lap(lap())


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch; laps record the evaluation loss."""
    lap = repeated(work, "evaluate", variant)
    for _ in range(work.epochs):
        clock.lap(lap())


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Predicts again and again; returns the last outputs."""
    lap = repeated(work, "predict", variant)
    for _ in range(work.epochs):
        outputs = lap()
        clock.lap()
    return outputs

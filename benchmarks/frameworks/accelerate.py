"""Accelerate: its documented raw loop, with neither bar nor logging, so there is one variant."""

import torch
from accelerate import Accelerator
from clock import Clock
from torch import Tensor
from torch.nn.functional import cross_entropy
from workloads import Work

VARIANTS = ("default",)


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, evaluates after each and records that loss."""
    accelerator = Accelerator(cpu=True)
    model = work.model()
    model, optimizer, loader, eval_loader = accelerator.prepare(
        model, work.optimizer(model), work.train_loader(), work.eval_loader()
    )
    for _ in range(work.epochs):
        total = 0.0
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        if not evaluated:
            clock.lap(total / len(loader))
            continue
        model.eval()
        with torch.inference_mode():
            total = sum(cross_entropy(model(x), y).item() for x, y in eval_loader)
        model.train()
        clock.lap(total / len(eval_loader))


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    train(work, clock, variant, evaluated=True)


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Returns the outputs for all samples, in order."""
    model, loader = Accelerator(cpu=True).prepare(work.model().eval(), work.predict_loader())
    for _ in range(work.epochs):
        with torch.inference_mode():
            outputs = torch.cat([model(x) for (x,) in loader])
        clock.lap()
    return outputs

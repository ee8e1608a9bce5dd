"""Lightning Fabric: its documented raw loop, with neither bar nor logging: one variant."""

import torch
from clock import Clock
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.functional import cross_entropy
from workloads import Work

VARIANTS = ("default",)


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, evaluates after each and records that loss."""
    fabric = Fabric(accelerator="cpu", devices=1)
    model = work.model()
    model, optimizer = fabric.setup(model, work.optimizer(model))
    loader = fabric.setup_dataloaders(work.train_loader())
    eval_loader = fabric.setup_dataloaders(work.eval_loader()) if evaluated else None
    for _ in range(work.epochs):
        total = 0.0
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        if eval_loader is None:
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
    fabric = Fabric(accelerator="cpu", devices=1)
    model = fabric.setup(work.model()).eval()
    loader = fabric.setup_dataloaders(work.predict_loader())
    for _ in range(work.epochs):
        with torch.inference_mode():
            outputs = torch.cat([model(x) for (x,) in loader])
        clock.lap()
    return outputs

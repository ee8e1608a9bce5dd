"""Ignite: `default` attaches its Average metric and its bar, `lean` sums the loss itself."""

import torch
from clock import Clock
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import ProgressBar
from ignite.metrics import Average, Loss
from torch.nn.functional import cross_entropy
from workloads import Work

VARIANTS = ("default", "lean")


def make_trainer(work: Work, variant: str) -> tuple[Engine, torch.nn.Module]:
    """Returns the training engine and its model; `engine.state.metrics["loss"]` is the epoch's."""
    model = work.model()
    optimizer = work.optimizer(model)
    if variant == "default":
        engine = create_supervised_trainer(model, optimizer, cross_entropy)
        Average().attach(engine, "loss")
        ProgressBar(persist=True).attach(engine, output_transform=lambda loss: {"loss": loss})
        return engine, model
    losses: list[float] = []

    def step(engine: Engine, batch: list[torch.Tensor]) -> None:
        x, y = batch
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    engine = Engine(step)

    @engine.on(Events.EPOCH_COMPLETED)
    def average() -> None:
        engine.state.metrics["loss"] = sum(losses) / len(losses)
        losses.clear()

    return engine, model


def train(work: Work, clock: Clock, variant: str) -> None:
    """Trains all epochs."""
    engine, _ = make_trainer(work, variant)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: clock.lap(engine.state.metrics["loss"])
    )
    engine.run(work.train_loader(), max_epochs=work.epochs)


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    engine, model = make_trainer(work, variant)
    evaluator = create_supervised_evaluator(model, {"loss": Loss(cross_entropy)})
    if variant == "default":
        ProgressBar(persist=True).attach(evaluator)
    loader = work.eval_loader()

    @engine.on(Events.EPOCH_COMPLETED)
    def run_evaluation() -> None:
        clock.lap(evaluator.run(loader).metrics["loss"])

    engine.run(work.train_loader(), max_epochs=work.epochs)

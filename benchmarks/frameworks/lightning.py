"""Lightning: `default` is ``Trainer(max_epochs=...)`` with `self.log`; `lean` turns extras off.

Lean has no bar, logger, checkpoint or model summary, and keeps the losses in a list of its own.
"""

import torch
from clock import Clock
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from workloads import Work

VARIANTS = ("default", "lean")
LEAN = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Classifier(LightningModule):
    """The workload's model, losses logged as the documentation shows."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self.network = work.model()

    def training_step(self, batch, index):  # noqa: D102
        x, y = batch
        loss = cross_entropy(self.network(x), y)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, index):  # noqa: D102
        x, y = batch
        self.log("val_loss", cross_entropy(self.network(x), y), prog_bar=True)

    def predict_step(self, batch, index):  # noqa: D102
        return self.network(batch[0])

    def configure_optimizers(self):  # noqa: D102
        return self.work.optimizer(self.network)


class LeanClassifier(Classifier):
    """The same without `self.log`."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.losses: list[Tensor] = []

    def training_step(self, batch, index):  # noqa: D102
        x, y = batch
        loss = cross_entropy(self.network(x), y)
        self.losses.append(loss.detach())
        return loss

    def validation_step(self, batch, index):  # noqa: D102
        x, y = batch
        self.losses.append(cross_entropy(self.network(x), y))

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self.losses.clear()


class Laps(Callback):
    """Ends the clock's lap with each epoch; validation has run by then."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:  # noqa: D102
        if isinstance(module, LeanClassifier):
            self.clock.lap(torch.stack(module.losses).mean())
            module.losses.clear()
        else:
            name = "val_loss" if "val_loss" in trainer.callback_metrics else "train_loss"
            self.clock.lap(trainer.callback_metrics[name])


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, a validation loader runs in each."""
    lean = variant == "lean"
    trainer = Trainer(
        max_epochs=work.epochs, accelerator="cpu", callbacks=[Laps(clock)], **(LEAN if lean else {})
    )
    model = LeanClassifier(work) if lean else Classifier(work)
    trainer.fit(model, work.train_loader(), work.eval_loader() if evaluated else None)


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    train(work, clock, variant, evaluated=True)


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Returns the outputs for all samples, in order."""
    trainer = Trainer(accelerator="cpu", **(LEAN if variant == "lean" else {}))
    model, loader = Classifier(work), work.predict_loader()
    for _ in range(work.epochs):
        outputs = torch.cat(trainer.predict(model, loader))
        clock.lap()
    return outputs

"""What `self.log` and `self.log_dict` record, beside what Lightning's trainer records."""

from typing import Any

import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from adapters.lightning_modules import Classifier, loader, trainer_of


class Lines(Logger):
    """Keeps what a logger is given."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Any] = []
        self.hyperparameters: Any = None

    @property
    def name(self) -> str:
        return "lines"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.lines.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hyperparameters = dict(params)


class Logs(Classifier):
    """Logs in every way, from every hook that may."""

    def __init__(self, width: int = 3, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.accuracy = MulticlassAccuracy(3)
        self.mean = MeanMetric()
        self.several = MetricCollection([MulticlassAccuracy(3), MulticlassF1Score(3)], prefix="m_")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        predicted = self.net(batch[0])
        self.log("default", loss)
        self.log("step", loss, on_step=True, on_epoch=False, prog_bar=True)
        self.log("epoch", loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("both", loss, on_step=True, on_epoch=True)
        for reduce in ("mean", "min", "max", "sum", torch.max):
            self.log(f"reduced_{reduce}", loss, reduce_fx=reduce, on_epoch=True, on_step=False)
        self.log("number", 2.5, batch_size=7, on_epoch=True)
        self.log("hidden", loss, logger=False, on_epoch=True)
        self.accuracy(predicted, batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.mean.update(loss.detach())
        self.log("mean", self.mean)
        self.several(predicted, batch[1])
        self.log_dict(self.several, on_step=False, on_epoch=True)
        self.log_dict({"one": loss, "two": 2 * loss}, on_epoch=True)
        return loss

    def on_train_start(self) -> None:
        self.log("at_start", 1.0)

    def on_train_epoch_start(self) -> None:
        self.log("at_epoch_start", float(self.current_epoch))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("norm", sum(each.grad.norm() for each in self.net.parameters()))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("at_batch_end", outputs["loss"], on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.log("at_epoch_end", self.trainer.callback_metrics["epoch"] * 2)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val", self.loss(batch))
        self.log("val_both", self.loss(batch), on_step=True, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.log("val_end", 3.0)


def logged(kind: str, **options: Any) -> Any:
    torch.manual_seed(5)
    lines = Lines()
    module = Logs(width=4)
    trainer = trainer_of(kind, logger=lines, log_every_n_steps=2, **options)
    trainer.fit(module, loader(shuffle=True), loader(8))
    tested = trainer.validate(module, loader(8), verbose=False)
    metrics = [trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics]
    numbers = [{name: float(value) for name, value in each.items()} for each in metrics]
    return lines.lines, numbers, tested, lines.hyperparameters


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3, "val_check_interval": 2}])
def test_all_that_is_logged_is_what_lightning_logs(options: Any) -> None:
    theirs, ours = logged("lightning", **options), logged("loopwright", **options)
    assert ours[1:] == theirs[1:]
    assert len(ours[0]) == len(theirs[0])
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert mine == other
    assert ours[3] == {"width": 4, "rate": 0.1}


@pytest.mark.parametrize(
    ("log", "match"),
    [
        (lambda self, loss: self.log("a", torch.ones(3)), "must have a single element"),
        (lambda self, loss: self.log("a", {"b": {"c": loss}}), "nested dictionaries"),
        (lambda self, loss: self.log("a", "text"), "values cannot be logged"),
        (lambda self, loss: self.log("a", loss, on_step=False, on_epoch=False), "is not useful"),
        (lambda self, loss: self.log("a", loss, on_epoch=True, reduce_fx=torch.std), "reduce_fx"),
        (
            lambda self, loss: (self.log("a", loss), self.log("a", loss, on_epoch=True)),
            "twice in `training_step` with different arguments",
        ),
    ],
)
def test_what_cannot_be_logged_is_refused(log: Any, match: str) -> None:
    class Wrong(Classifier):
        """Logs what cannot be."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            log(self, loss := self.loss(batch))
            return loss

    with pytest.raises(Exception, match=match):
        trainer_of("loopwright").fit(Wrong(), loader())


def test_metrics_by_epoch_are_in_the_history() -> None:
    trainer = trainer_of("loopwright")
    trainer.fit(Classifier(), loader(), loader())
    values = trainer.run_history.get_metric_values("val_loss")
    assert len(values) == 3
    assert values[-1] == float(trainer.callback_metrics["val_loss"])

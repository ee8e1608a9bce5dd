"""pytorch-accelerated: `default`, `default-w0` without loader workers, `lean` also without a bar.

By default it starts one loader worker per core and starts them anew for each epoch; on one core
that is unkind, so the same is also measured with `num_workers=0`.
"""

from clock import Clock
from pytorch_accelerated.callbacks import TerminateOnNaNCallback, TrainerCallback
from pytorch_accelerated.trainer import DEFAULT_CALLBACKS, Trainer
from torch import nn
from torch.utils.data import TensorDataset
from workloads import Work

VARIANTS = ("default", "default-w0", "lean")


class Laps(TrainerCallback):
    """Ends the clock's lap with each epoch; evaluation has run by then."""

    def __init__(self, clock: Clock, metric: str) -> None:
        self.clock, self.metric = clock, metric

    def on_training_run_epoch_end(self, trainer, **kwargs) -> None:  # noqa: D102
        self.clock.lap(trainer.run_history.get_latest_metric(self.metric))


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, evaluates after each."""
    callbacks = (TerminateOnNaNCallback,) if variant == "lean" else DEFAULT_CALLBACKS
    laps = Laps(clock, "eval_loss_epoch" if evaluated else "train_loss_epoch")
    workers = {} if variant == "default" else {"num_workers": 0}
    model = work.model()
    Trainer(
        model, nn.CrossEntropyLoss(), work.optimizer(model), callbacks=(*callbacks, laps)
    ).train(
        TensorDataset(work.x, work.y),
        num_epochs=work.epochs,
        eval_dataset=TensorDataset(work.eval_x, work.eval_y) if evaluated else None,
        per_device_batch_size=work.batch_size,
        train_dataloader_kwargs=workers,
        eval_dataloader_kwargs=workers,
    )


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    train(work, clock, variant, evaluated=True)

"""loopwright: `default` is the plain Trainer, bar and history on; `lean` has no callbacks.

`capture` is `default` with every step as one compiled program. `loader` is `default` over a
DataLoader that the user made, `samples` the same for paired.py, and `trainloop` a TrainLoop over it
that evaluates nothing by itself; `reevaluated` is one as it comes, which evaluates the training
data again after each epoch.
"""

from typing import Any

from clock import Clock
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from workloads import Work

from loopwright.events import TrainerCallback
from loopwright.loop_callbacks import AbstractCallback
from loopwright.trainer import DEFAULT_CALLBACKS, Trainer
from loopwright.trainloop import TrainLoop, TTBasicModel

VARIANTS = ("default", "lean", "loader", "capture")


class Laps(TrainerCallback):
    """Ends the clock's lap with each epoch; evaluation has run by then."""

    def __init__(self, clock: Clock, metric: str) -> None:
        self.clock, self.metric = clock, metric

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: object) -> None:
        """Reads the history's newest value."""
        self.clock.lap(trainer.run_history.get_latest_metric(self.metric))


def make_trainer(work: Work, variant: str, *callbacks: TrainerCallback) -> Trainer:
    """Returns the trainer of a variant."""
    model = work.model()
    defaults = () if variant == "lean" else DEFAULT_CALLBACKS
    arguments = (model, cross_entropy, work.optimizer(model), (*defaults, *callbacks))
    if variant not in ("loader", "samples"):
        return Trainer(*arguments, step_mode="capture" if variant == "capture" else "eager")

    class LoaderTrainer(Trainer):
        """A trainer over the user's own loaders."""

        def create_train_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
            return work.train_loader(variant)

        def create_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
            return work.eval_loader()

    return LoaderTrainer(*arguments)


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, evaluates after each."""
    if variant in ("trainloop", "reevaluated"):
        train_loop(work, clock, end_auto_eval=variant == "reevaluated")
        return
    laps = Laps(clock, "eval_loss_epoch" if evaluated else "train_loss_epoch")
    make_trainer(work, variant, laps).train(
        TensorDataset(work.x, work.y),
        num_epochs=work.epochs,
        eval_dataset=TensorDataset(work.eval_x, work.eval_y) if evaluated else None,
        per_device_batch_size=work.batch_size,
    )


class Classifier(TTBasicModel):
    """The workload's model."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.network = work.model()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        return self.network(x)


class LoopLaps(AbstractCallback):
    """Ends the clock's lap with each epoch."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("laps")
        self.clock = clock

    def on_epoch_end(self) -> None:
        """Reads the history's newest value."""
        self.clock.lap(self.train_loop_obj.train_history["accumulated_loss"][-1])


def train_loop(work: Work, clock: Clock, *, end_auto_eval: bool) -> None:
    """Trains all epochs in a TrainLoop."""
    model = Classifier(work)
    arguments = (model, work.train_loader(), None, None, work.optimizer(model))
    loop = TrainLoop(*arguments, nn.CrossEntropyLoss(), end_auto_eval=end_auto_eval)
    loop.fit(num_epochs=work.epochs, callbacks=[LoopLaps(clock)])


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    train(work, clock, variant, evaluated=True)


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Returns the outputs for all samples, in order."""
    trainer = make_trainer(work, variant)
    for _ in range(work.epochs):
        outputs = trainer.predict(TensorDataset(work.x), work.batch_size)
        clock.lap()
    return outputs

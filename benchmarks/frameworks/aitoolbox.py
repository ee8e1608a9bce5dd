"""AIToolbox: `default` as it comes, `lean` without bars and without its extra pass at epoch end.

By default it evaluates the loss on the whole training set again after every epoch.
"""

from aitoolbox.torchtrain.callbacks.abstract import AbstractCallback
from aitoolbox.torchtrain.model import TTBasicModel
from aitoolbox.torchtrain.train_loop import TrainLoop, train_loop
from clock import Clock
from torch import Tensor, nn
from workloads import Work

VARIANTS = ("default", "lean")


class Classifier(TTBasicModel):
    """The workload's model."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.network = work.model()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        return self.network(x)


class Laps(AbstractCallback):
    """Ends the clock's lap with each epoch; its evaluations have run by then."""

    def __init__(self, clock: Clock, metric: str) -> None:
        super().__init__("laps")
        self.clock, self.metric = clock, metric

    def on_epoch_end(self) -> None:
        """Reads the history's newest value."""
        self.clock.lap(self.train_loop_obj.train_history.train_history[self.metric][-1])


def make_loop(work: Work, variant: str, *, evaluated: bool) -> TrainLoop:
    """Returns the loop over the workload's data."""
    if variant == "lean":  # the loop has no option for its bars
        train_loop.tqdm = lambda batches, **options: batches
    model = Classifier(work)
    return TrainLoop(
        model,
        work.train_loader(),
        work.eval_loader() if evaluated else None,
        None,
        work.optimizer(model),
        nn.CrossEntropyLoss(),
        end_auto_eval=evaluated or variant == "default",
    )


def train(work: Work, clock: Clock, variant: str) -> None:
    """Trains all epochs."""
    loop = make_loop(work, variant, evaluated=False)
    loop.fit(num_epochs=work.epochs, callbacks=[Laps(clock, "accumulated_loss")])


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    loop = make_loop(work, variant, evaluated=True)
    loop.fit(num_epochs=work.epochs, callbacks=[Laps(clock, "val_loss")])

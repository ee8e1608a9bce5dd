"""skorch: `default` prints its table of epochs, `lean` is silent. It has no bar by default."""

import torch
from clock import Clock
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn
from workloads import Work

VARIANTS = ("default", "lean")


class Laps(Callback):
    """Ends the clock's lap with each epoch; validation has run by then."""

    def __init__(self, clock: Clock, metric: str) -> None:
        self.clock, self.metric = clock, metric

    def on_epoch_end(self, net: NeuralNet, **kwargs) -> None:
        """Reads the history's newest value."""
        self.clock.lap(net.history[-1, self.metric])


def make_net(work: Work, variant: str, **settings: object) -> NeuralNet:
    """Returns the net around the workload's model and optimizer."""
    lean = {"verbose": 0, "callbacks__print_log": None}
    return NeuralNet(
        work.model(),
        nn.CrossEntropyLoss,
        optimizer=work.spec.optimizer,
        max_epochs=work.epochs,
        batch_size=work.batch_size,
        iterator_train__shuffle=True,
        predict_nonlinearity=None,
        **{f"optimizer__{name}": value for name, value in work.settings.items()},
        **(lean if variant == "lean" else {}),
        **settings,
    )


def train(work: Work, clock: Clock, variant: str) -> None:
    """Trains all epochs."""
    laps = [("laps", Laps(clock, "train_loss"))]
    make_net(work, variant, train_split=None, callbacks=laps).fit(work.x, work.y)


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    split = predefined_split(Dataset(work.eval_x, work.eval_y))
    laps = [("laps", Laps(clock, "valid_loss"))]
    make_net(work, variant, train_split=split, callbacks=laps).fit(work.x, work.y)


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Returns the outputs for all samples, in order."""
    net = make_net(work, variant).initialize()
    for _ in range(work.epochs):
        outputs = net.predict_proba(work.x)  # the logits: its nonlinearity is off
        clock.lap()
    return torch.from_numpy(outputs)

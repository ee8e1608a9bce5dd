"""Keras on its torch backend, fed with arrays: `default` shows its bar, `lean` is silent.

It trains with its own layers and optimizers; the layers are made after the workload's model.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from clock import Clock
from torch import Tensor, nn
from workloads import Work

VARIANTS = ("default", "lean")
OPTIMIZERS = {torch.optim.SGD: keras.optimizers.SGD, torch.optim.Adam: keras.optimizers.Adam}
FIRST = {"data_format": "channels_first"}


def layer(module: nn.Module) -> keras.Layer:
    """Returns the Keras layer that does what a torch module does."""
    match module:
        case nn.Linear():
            return keras.layers.Dense(module.out_features)
        case nn.Conv2d():
            size = module.kernel_size
            return keras.layers.Conv2D(module.out_channels, size, padding="same", **FIRST)
        case nn.MaxPool2d():
            return keras.layers.MaxPooling2D(module.kernel_size, **FIRST)
        case nn.Flatten():
            return keras.layers.Flatten()
        case nn.ReLU():
            return keras.layers.ReLU()
    raise TypeError(f"no Keras layer is known for {module}")


def make_model(work: Work) -> keras.Model:
    """Returns the compiled model."""
    inputs = keras.layers.Input(work.spec.shape)
    model = keras.Sequential([inputs, *map(layer, work.model())])
    settings = {name: value for name, value in work.settings.items() if name != "fused"}
    model.compile(
        optimizer=OPTIMIZERS[work.spec.optimizer](settings.pop("lr"), **settings),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


class Laps(keras.callbacks.Callback):
    """Ends the clock's lap with each epoch; validation has run by then."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Reads the epoch's logs."""
        self.clock.lap(logs.get("val_loss", logs["loss"]))


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, evaluates after each."""
    make_model(work).fit(
        work.x.numpy(),
        work.y.numpy(),
        batch_size=work.batch_size,
        epochs=work.epochs,
        validation_data=(work.eval_x.numpy(), work.eval_y.numpy()) if evaluated else None,
        verbose=0 if variant == "lean" else "auto",
        callbacks=[Laps(clock)],
    )


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    train(work, clock, variant, evaluated=True)


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Returns the outputs for all samples, in order."""
    model, x = make_model(work), work.x.numpy()
    for _ in range(work.epochs):
        outputs = model.predict(x, work.batch_size, verbose=0 if variant == "lean" else "auto")
        clock.lap()
    return torch.from_numpy(outputs)

"""Times a `LightningModule` on the adapter and on Lightning's own trainer, epochs taking turns.

    python benchmarks/lightning_adapter.py

Both trainers run in one process, in threads that take turns, so that a busy machine slows both.
The figure is the median of the ratio of each of the adapter's epochs to its two neighbours, the
first of both left out: there a captured step is compiled.
"""

import argparse
import itertools
import logging
import platform
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial

import lightning
import torch
from lightning import Callback, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from loopwright.adapters.lightning import Trainer
from loopwright.execution.report import StepMode

LEAN = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Classifier(LightningModule):
    """A small network; its loss is logged as Lightning's documentation shows."""

    def __init__(self, *, logs: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
        self.logs = logs

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Returns the loss."""
        loss = cross_entropy(self.net(batch[0]), batch[1])
        if self.logs:
            self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Turns(Callback):
    """Lets another trainer run its epoch after each of this one's, and takes the time."""

    def __init__(self, mine: threading.Semaphore, other: threading.Semaphore) -> None:
        self.mine, self.other = mine, other
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: LightningModule) -> None:
        """Waits for the turn."""
        self.mine.acquire()
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: LightningModule) -> None:
        """Notes the time, and passes the turn on."""
        self.seconds.append(time.perf_counter() - self.began)
        self.other.release()


def fit(make: Callable[..., lightning.Trainer], turns: Turns, epochs: int, *, logs: bool) -> None:
    """Trains on 19,968 samples in batches of 64."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(19_968, 32, generator=generator)
    targets = torch.randint(0, 10, (19_968,), generator=generator)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True)
    trainer = make(max_epochs=epochs, accelerator="cpu", callbacks=[turns], **LEAN)
    trainer.fit(Classifier(logs=logs), loader)


def ratios(
    epochs: int, *, logs: bool, mode: StepMode
) -> tuple[list[float], list[float], list[float]]:
    """Returns seconds per epoch of Lightning's and the adapter's, and their ratios."""
    first, second = threading.Semaphore(1), threading.Semaphore(0)
    theirs, ours = Turns(first, second), Turns(second, first)
    other = threading.Thread(
        target=fit, args=(lightning.Trainer, theirs, epochs), kwargs={"logs": logs}
    )
    other.start()
    fit(partial(Trainer, step_mode=mode), ours, epochs, logs=logs)
    other.join()
    pairs = zip(ours.seconds[1:-1], theirs.seconds[1:-1], theirs.seconds[2:], strict=True)
    return theirs.seconds[1:], ours.seconds[1:], [mine / ((a + b) / 2) for mine, a, b in pairs]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, lightning {lightning.__version__}, {platform.processor()}")
    print("| module | Lightning µs/step | adapter µs/step | ratio | min..max |")
    print("|---|--:|--:|--:|--:|")
    modes: tuple[StepMode, ...] = ("eager", "capture")
    for logs, mode in itertools.product((False, True), modes):
        theirs, ours, ratio = ratios(epochs, logs=logs, mode=mode)
        micro = [1e6 * statistics.median(each) / 312 for each in (theirs, ours)]
        print(
            f"| {'logs its loss' if logs else 'logs nothing'}, {mode} "
            f"| {micro[0]:.0f} | {micro[1]:.0f} "
            f"| {statistics.median(ratio):.2f} | {min(ratio):.2f}..{max(ratio):.2f} |"
        )


if __name__ == "__main__":
    main()

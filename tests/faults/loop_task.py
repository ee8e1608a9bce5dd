"""The TrainLoop of the fault tests: 4 epochs of 38 batches, with dropout and augmentation."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from faults import task
from loopwright.loop_callbacks import AbstractCallback, ModelLoadContinueTraining
from loopwright.seed import set_seed
from loopwright.trainloop import TrainLoopCheckpointEndSave, TTBasicModel


class Model(TTBasicModel):
    """The task's network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = task.make_model()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs)


class KillAt(AbstractCallback):
    """Kills this process after a batch, or when its checkpoint is about to be put in place."""

    def __init__(self, batch: int) -> None:
        super().__init__("kill")
        self.batch = batch

    def on_batch_end(self) -> None:
        if self.train_loop_obj.total_iteration_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_inside_save(number: int) -> None:
    """Kill this process while its model of this number is written, and not yet in place."""
    replace, seen = os.replace, []

    def killing(source: Any, target: Any) -> None:
        if str(target).endswith(".pth"):
            seen.append(target)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = killing


def run(
    folder: str,
    name: str,
    *,
    continues: str | None = None,
    kill_at: int | None = None,
    kill_in_save: int | None = None,
    iteration_save_freq: int = 0,
) -> dict[str, Any]:
    """Train, or go on with what is saved under another name."""
    from loopwright.results import ClassificationResultPackage

    torch.set_num_threads(1)
    set_seed(3 if continues is None else 77)
    model = Model()
    if kill_in_save is not None:
        kill_inside_save(kill_in_save)
    loop = TrainLoopCheckpointEndSave(
        model,
        DataLoader(task.Augmented(), batch_size=task.BATCH, shuffle=True),
        DataLoader(task.Augmented(), batch_size=50),
        DataLoader(task.Augmented(), batch_size=60),
        torch.optim.Adam(model.parameters(), lr=1e-2),
        nn.CrossEntropyLoss(),
        "project",
        "experiment",
        folder,
        {"lr": 1e-2},
        test_result_package=ClassificationResultPackage(),
        iteration_save_freq=iteration_save_freq,
    )
    loop.experiment_timestamp = name
    callbacks: list[AbstractCallback] = []
    if continues is not None:
        callbacks.append(ModelLoadContinueTraining(continues))
    if kill_at is not None:
        callbacks.append(KillAt(kill_at))
    loop.fit(num_epochs=task.NUM_EPOCHS, callbacks=callbacks)
    return {
        "weights": model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "history": loop.train_history.get_train_history(),
        "results": loop.test_result_package.get_results()["Accuracy"],
        "where": [loop.epoch, loop.total_iteration_idx],
    }


def saved(folder: Path, name: str) -> list[str]:
    """Return the names of the models that were saved under a name, without half-written ones."""
    return sorted(path.name for path in folder.glob(f"project/*_{name}/checkpoint_model/*.pth"))

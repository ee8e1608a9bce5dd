"""The TrainLoop of the fault tests: 4 epochs of 38 batches, with dropout and augmentation."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from faults import task
from faults.storage_jobs import QUICK
from loopwright.errors import RunInterrupted
from loopwright.loop_callbacks import AbstractCallback, ModelLoadContinueTraining
from loopwright.seed import set_seed
from loopwright.storage import Mirror
from loopwright.tracking import uploads
from loopwright.trainloop import TrainLoopCheckpointEndSave, TTBasicModel


class Model(TTBasicModel):
    """The task's network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = task.make_model()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs)


class KillAt(AbstractCallback):
    """Signals this process after a batch."""

    def __init__(self, batch: int, number: int) -> None:
        super().__init__("kill")
        self.batch, self.number = batch, number

    def on_batch_end(self) -> None:
        if self.train_loop_obj.total_iteration_idx == self.batch:
            os.kill(os.getpid(), self.number)


class KillInEvaluation(AbstractCallback):
    """Signals this process while the loss of an epoch is evaluated."""

    def __init__(self, epoch: int, number: int) -> None:
        super().__init__("kill in evaluation")
        self.epoch, self.number = epoch, number

    def on_train_loop_registration(self) -> None:
        loop, evaluate = self.train_loop_obj, self.train_loop_obj.evaluate_loss_on_validation_set

        def killing(*args: Any, **kwargs: Any) -> Any:
            if loop.epoch == self.epoch:
                os.kill(os.getpid(), self.number)
            return evaluate(*args, **kwargs)

        loop.evaluate_loss_on_validation_set = killing


class Pace(AbstractCallback):
    """Lets each batch take a while, and notes when it was done."""

    def __init__(self, seconds: float) -> None:
        super().__init__("pace")
        self.seconds = seconds
        self.times: list[float] = []

    def on_batch_end(self) -> None:
        time.sleep(self.seconds)
        self.times.append(time.time())


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
    kill_in_evaluation: int | None = None,
    number: int = signal.SIGKILL,
    iteration_save_freq: int = 0,
    environment: dict[str, str] | None = None,
    cloud_save_mode: str | None = None,
    pause: float = 0.0,
    wait: float = 60.0,
) -> dict[str, Any]:
    """Train, or go on with what is saved under another name.

    With an environment there is a copy in a bucket, whose end is waited for as long as is said.
    """
    from loopwright.results import ClassificationResultPackage

    torch.set_num_threads(1)
    os.environ.update(environment or {})
    uploads.WAIT_SECONDS = wait
    uploads.Mirror = partial(Mirror, backoff=QUICK, stall_seconds=10)  # type: ignore[misc]
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
        cloud_save_mode=cloud_save_mode,
        bucket_name="bucket",
    )
    loop.experiment_timestamp = name
    pace = Pace(pause)
    callbacks: list[AbstractCallback] = [pace]
    if continues is not None:
        callbacks.append(ModelLoadContinueTraining(continues))
    if kill_at is not None:
        callbacks.append(KillAt(kill_at, number))
    if kill_in_evaluation is not None:
        callbacks.append(KillInEvaluation(kill_in_evaluation, number))
    try:
        loop.fit(num_epochs=task.NUM_EPOCHS, callbacks=callbacks)
    except (RunInterrupted, KeyboardInterrupt) as error:
        return {"interrupted": f"{type(error).__name__}: {error}", "times": pace.times}
    return {
        "times": pace.times,
        "weights": model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "history": loop.train_history.get_train_history(),
        "results": loop.test_result_package.get_results()["Accuracy"],
        "where": [loop.epoch, loop.total_iteration_idx],
    }


def saved(folder: Path, name: str) -> list[str]:
    """Return the names of the models that were saved under a name, without half-written ones."""
    return sorted(path.name for path in folder.glob(f"project/*_{name}/checkpoint_model/*.pth"))

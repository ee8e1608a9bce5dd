"""The trainer of a project: made of `trainer_config`, it runs the loop on a module and its data."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from loopwright import trainer as loop
from loopwright.callbacks import get_default_callbacks
from loopwright.errors import NotSupportedError
from loopwright.events import TrainerCallback
from loopwright.modes import preserved_modes
from loopwright.placeholders import TrainerPlaceholderValues
from loopwright.project.callbacks import Log, ModelCheckpoint, RecordMetrics
from loopwright.project.metrics import MetricSet
from loopwright.project.module import TrainingModule

NUM_STEPS: Any = (
    TrainerPlaceholderValues.NUM_EPOCHS * TrainerPlaceholderValues.NUM_UPDATE_STEPS_PER_EPOCH
)
"""Replaced by the steps of a run when it starts."""

_DEVICES = {"auto": None, "gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps"}


class Trainer:
    """Trains, tests and predicts with a `TrainingModule` and a `DataModule`.

    Args:
        max_epochs: epochs to train.
        accelerator: "auto", "cpu", "gpu" (or "cuda") or "mps".
        devices: "auto", 1, or a list of one index. Several are for a later version.
        strategy: "auto".
        num_processes: the older name of `devices`; it works, and says so.
        enable_checkpointing: whether models are kept, by the `ModelCheckpoint` of `callbacks` or
            one with its defaults.
        default_root_dir: the folder of the run, empty or new; None writes nothing but what
            callbacks write.
        callbacks: `ModelCheckpoint`, `EarlyStopping`, and any callback of the loop.
        enable_progress_bar: whether there is a bar.
        log_every_n_steps: steps between two values that `logger` gets.
        logger: an object with `log_metrics(metrics, step)`, or several; None or a bool for the
            run's own log alone.
        num_sanity_val_steps: batches of validation that are tried before the training.

    Raises:
        NotSupportedError: several devices, or a strategy for them, are asked for.
        ValueError: a value is unknown.
    """

    def __init__(
        self,
        *,
        max_epochs: int = 1,
        accelerator: str = "auto",
        devices: str | int | list[int] | None = "auto",
        strategy: str = "auto",
        num_processes: int | None = None,
        enable_checkpointing: bool = True,
        default_root_dir: str | Path | None = None,
        callbacks: Iterable[TrainerCallback] | TrainerCallback | None = (),
        enable_progress_bar: bool = True,
        log_every_n_steps: int = 20,
        logger: Any = None,
        num_sanity_val_steps: int = 0,
    ) -> None:
        if num_processes is not None:
            warnings.warn(
                f"num_processes={num_processes} is the older name of devices={num_processes}.",
                DeprecationWarning,
                stacklevel=2,
            )
            devices = num_processes
        if strategy not in (None, "auto"):
            raise NotSupportedError(f"strategy is {strategy!r}; this version has 'auto' alone.")
        if log_every_n_steps < 1:
            raise ValueError(f"log_every_n_steps is {log_every_n_steps}; expected 1 or more.")
        self.max_epochs = max_epochs
        self.device = _device(accelerator, devices)
        self.enable_checkpointing = enable_checkpointing
        self.default_root_dir = default_root_dir
        self.callbacks = _as_list(callbacks)
        self.enable_progress_bar = enable_progress_bar
        self.log_every_n_steps = log_every_n_steps
        self.loggers = [] if isinstance(logger, bool) else _as_list(logger)
        self.num_sanity_val_steps = num_sanity_val_steps
        self.loop: loop.Trainer | None = None
        """The loop's own trainer of the last call."""
        self.metrics: MetricSet | None = None
        """Targets and predictions of the validation or test set of the last call."""
        kept = [each for each in self.callbacks if isinstance(each, ModelCheckpoint)]
        if not enable_checkpointing:
            self.callbacks = [each for each in self.callbacks if each not in kept]
        elif not kept:
            self.callbacks.append(ModelCheckpoint())

    @property
    def checkpoint_callback(self) -> ModelCheckpoint | None:
        """The `ModelCheckpoint`; None where models are not kept."""
        kept = (each for each in self.callbacks if isinstance(each, ModelCheckpoint))
        return next(kept, None)

    def fit(
        self, model: TrainingModule, data_module: Any, *, resume: str | Path | None = None
    ) -> None:
        """Train the model, and evaluate it on the validation set after each epoch.

        Args:
            model: the module to train.
            data_module: has `train_dataloader()` and `val_dataloader()`.
            resume: "latest" goes on with the run in `default_root_dir`.

        Raises:
            RunInterrupted: a signal ended the run, which saved and can be resumed.
        """
        if self.num_sanity_val_steps:
            self._try_validation(model, data_module)
        trainer = self._loop(model, data_module, "val", run_dir=self.default_root_dir)
        trainer.train(
            getattr(data_module, "train_set", data_module),
            self.max_epochs,
            eval_dataset=getattr(data_module, "val_set", data_module),
            per_device_batch_size=model.model_config["batch_size"],
            create_scheduler_fn=partial(model.configure_scheduler, num_training_steps=NUM_STEPS),
            resume=resume,
        )

    def test(self, model: TrainingModule, data_module: Any) -> dict[str, Any]:
        """Return `test_loss` and each metric as `test_NAME` on the test set."""
        trainer = self._loop(model, data_module, "test", callbacks=False)
        trainer.evaluate()
        assert self.metrics is not None
        found = {f"test_{name}": value for name, value in self.metrics.compute().items()}
        return {"test_loss": trainer.run_history.get_latest_metric("test_loss"), **found}

    def predict(self, model: TrainingModule, data_module: Any) -> Any:
        """Return the model's outputs for `predict_dataloader()`, in order and on the CPU."""
        trainer = self._loop(model, data_module, "test", callbacks=False)
        trainer._prepare_model_and_optimizer()
        outputs = []
        with trainer._phase("predict"), torch.no_grad():
            model.eval()
            for batch in trainer._feed.batches(trainer, data_module.predict_dataloader()):
                outputs.append(trainer.calculate_prediction(batch).cpu())
        return torch.cat(outputs)

    def _try_validation(self, model: TrainingModule, data_module: Any) -> None:
        """Send some batches of validation through, so that a mistake shows before the epoch."""
        trainer = self._loop(model, data_module, "val", callbacks=False)
        trainer._prepare_model_and_optimizer()
        batches = trainer._feed.batches(trainer, data_module.val_dataloader())
        with trainer._phase("eval"), torch.no_grad():
            model.eval()
            for batch in islice(batches, self.num_sanity_val_steps):
                model.calculate_loss(batch)

    def _loop(
        self,
        model: TrainingModule,
        data_module: Any,
        part: str,
        *,
        callbacks: bool = True,
        run_dir: str | Path | None = None,
    ) -> "_Loop":
        self.metrics = model.make_metrics()
        record = RecordMetrics(model.make_metrics(), self.metrics, part)
        more = [*self.callbacks] if callbacks else []
        if callbacks and self.loggers:
            more.append(Log(self.loggers, self.log_every_n_steps))
        defaults = get_default_callbacks(self.enable_progress_bar)
        device = self.device or model.model_config["device"]
        self.loop = trainer = _Loop(
            model,
            None,
            model.configure_optimizers() if callbacks else None,
            callbacks=[record, *defaults, *more],
            device=device,
            seed=model.model_config["seed"],
            run_dir=run_dir,
        )
        trainer.data_module, trainer.part = data_module, part
        return trainer


class _Loop(loop.Trainer):
    """Takes loaders from a data module, and losses from the module that it trains."""

    data_module: Any
    part: str

    def create_train_dataloader(
        self, batch_size: int, train_dl_kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.data_module.train_dataloader()

    def create_eval_dataloader(
        self, batch_size: int, eval_dl_kwargs: dict[str, Any] | None = None
    ) -> Any:
        return getattr(self.data_module, f"{self.part}_dataloader")()

    def train_step(self, batch: Any) -> Any:
        if type(self.model).train_step is TrainingModule.train_step:
            return super().train_step(batch)
        output = self.model.train_step(batch, self.update)
        self._report_train_step(batch, output)
        return output

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        output: dict[str, Any] = self.model.calculate_loss(batch)
        return output

    calculate_eval_batch_loss = calculate_train_batch_loss


def metrics_of(
    trainer: Any,
    model: Any,
    loader: Callable[[], Any],
    metrics_config: Mapping[str, bool],
    model_config: Mapping[str, Any],
) -> MetricSet:
    """Return what a trainer measured last; for another engine than ours measure it now.

    Args:
        trainer: a `Trainer`, or another engine's.
        model: called with inputs; its `predictions(outputs)` says what they mean.
        loader: makes the loader of (inputs, targets) to measure on.
        metrics_config: which metrics are computed, by name.
        model_config: see `MODEL_CONFIG`.
    """
    if isinstance(trainer, Trainer) and trainer.metrics is not None:
        return trainer.metrics
    metrics = MetricSet(metrics_config, model_config)
    device = next(model.parameters()).device
    with preserved_modes(model), torch.no_grad():
        model.eval()
        for inputs, targets in loader():
            metrics.update(targets, model.predictions(model(inputs.to(device))))
    return metrics


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _device(accelerator: str, devices: str | int | list[int] | None) -> str | None:
    """Return the device that the two mean; None for the best there is."""
    if accelerator not in _DEVICES:
        known = ", ".join(_DEVICES)
        raise ValueError(f"accelerator is {accelerator!r}; expected one of {known}.")
    several = len(devices) if isinstance(devices, list) else devices
    if several not in (None, "auto", 1, "1"):
        raise NotSupportedError(
            f"devices is {devices!r}; this version trains on one. Give 'auto', 1, or a list of one."
        )
    device = _DEVICES[accelerator]
    is_cuda = device == "cuda" or (device is None and torch.cuda.is_available())
    if isinstance(devices, list) and is_cuda:
        return f"cuda:{devices[0]}"
    return device

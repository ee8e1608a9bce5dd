"""A declared run, once prepared: its trainer made, fitted and tested, and what it found."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from loopwright.callbacks import MetricsCallback
from loopwright.components.schedules import build_schedule
from loopwright.default_callbacks import MoveModulesToDeviceCallback, TerminateOnNaNCallback
from loopwright.environment import describe_environment
from loopwright.errors import CheckpointError, ConfigurationError, DivergedError
from loopwright.events import TrainerCallback
from loopwright.experiment_checks import SCHEDULED
from loopwright.experiment_config import ExperimentSpec, TrainingSpec
from loopwright.experiment_parts import Parts
from loopwright.experiment_preparation import RunData
from loopwright.fitted import Fitted
from loopwright.run_folder import RunFolder, read_run
from loopwright.schedulers import all_of
from loopwright.stages import Stages
from loopwright.storage import Mirror
from loopwright.trainer import Trainer


def make_trainer(
    parts: Parts,
    spec: ExperimentSpec,
    callbacks: Iterable[TrainerCallback] = (),
    run_dir: Path | Mirror | None = None,
) -> Trainer:
    """Return what trains and tests the parts; without a folder it writes nothing."""
    run = spec.run
    watch: list[TrainerCallback] = [MoveModulesToDeviceCallback(), TerminateOnNaNCallback()]
    if parts.metrics:
        watch.append(MetricsCallback(parts.metrics, train_metrics=parts.train_metrics))
    return parts.make_trainer(
        parts.model,
        parts.loss,
        parts.optimizer,
        callbacks=[*watch, *parts.callbacks, *callbacks],
        device=run.device,
        precision=run.precision,
        step_mode=run.step_mode,
        on_out_of_memory=run.on_out_of_memory,
        seed=spec.seed,
        run_dir=run_dir,
        checkpoint=run.checkpoint.policy() if run.checkpoint and run_dir else None,
    )


def fit(
    trainer: Trainer, data: RunData, training: TrainingSpec, *, resume: bool, allow_changes: bool
) -> None:
    """Train as declared.

    Raises:
        DivergedError: the loss became infinite or NaN.
    """
    trainer.train(
        data.to_train(trainer),
        training.epochs,
        eval_dataset=data.get("validation"),
        per_device_batch_size=training.batch_size,
        max_num_train_steps=training.max_steps,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        gradient_clip_value=training.gradient_clip_value,
        gradient_clip_norm=training.gradient_clip_norm,
        create_scheduler_fn=_schedules(training),
        resume="latest" if resume else None,
        allow_changes=allow_changes,
    )
    _raise_if_not_finite(trainer)


def _schedules(training: TrainingSpec) -> Callable[[Optimizer], Any] | None:
    """Return what makes the declared schedules for the optimizer; None without any."""
    declared = {field: getattr(training, key) for key, field in SCHEDULED.items()}
    made = [
        build_schedule(part.type, part.arguments, field=field)
        for field, part in declared.items()
        if part is not None
    ]
    return made[0] if len(made) == 1 else all_of(*made) if made else None


class Begun(TrainerCallback):
    """Notes that training began, and stores the configuration that it goes on with from there."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any] | None) -> None:
        self.happened = False
        self._folder = folder
        self._config = config

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.happened = True
        if self._config is not None:
            self._folder.write_config(self._config)


@contextmanager
def explaining_misfits(begun: Begun) -> Iterator[None]:
    """Tell a checkpoint that does not fit, before anything is trained, as a mistake in values."""
    try:
        yield
    except CheckpointError as error:
        if begun.happened:
            raise
        raise ConfigurationError(str(error)) from error


def measure(trainer: Trainer, data: RunData, batch_size: int) -> dict[str, float]:
    """Return the figures of the test part, by names that begin with `test_`.

    Raises:
        DivergedError: the loss is infinite or NaN.
    """
    trainer.evaluate(data["test"], per_device_batch_size=batch_size)
    _raise_if_not_finite(trainer)
    history = trainer.run_history
    return {
        _test_name(name): float(history.get_latest_metric(name))
        for name in sorted(history.get_metric_names())
    }


def _raise_if_not_finite(trainer: Trainer) -> None:
    for callback in trainer.callback_handler:
        if isinstance(callback, TerminateOnNaNCallback) and callback.triggered:
            raise DivergedError(
                f"{trainer.stop_reason} Lower the learning rate, or clip gradients with "
                "model.training.gradient_clip_norm. To find where it began: loopwright replay "
                f"{trainer.run_dir}"
            )


def _test_name(name: str) -> str:
    stem = name.removeprefix("evaluation_").removeprefix("eval_").removesuffix("_epoch")
    return f"test_{stem}"


def log_evaluation(folder: RunFolder, trainer: Trainer) -> None:
    """Log a test that comes after a program that trained and did not get to test."""
    run, history = read_run(folder.path), trainer.run_history
    if any(row.event == "evaluation" for row in run.metrics):
        return
    metrics = {name: history.get_latest_metric(name) for name in history.get_metric_names()}
    folder.log(run.results["epochs"], run.results["steps"], metrics, event="evaluation")


def as_fitted(
    parts: Parts, spec: ExperimentSpec, model: nn.Module, metrics: Mapping[str, float]
) -> Fitted:
    """Return a trained model with what it needs to be used."""
    training = spec.model.training
    assert parts.source is not None
    return Fitted(
        model,
        parts.source.features_info,
        parts.labels,
        list(parts.pipeline.steps),
        loss=parts.loss_name,
        objective=training.objective.type if training.objective else "",
        batch_size=training.batch_size,
        device=spec.run.device,
        metrics=metrics,
    )


def collect(folder: Path, stages: Stages) -> dict[str, Any]:
    """Return what a run found: what its folder holds, how long each stage took, and where."""
    environment = describe_environment()
    results = dict(read_run(folder).results)
    tested = {k: [v] for k, v in results["metrics"].items() if k.startswith("test_")}
    return results | {
        "history": dict(results["history"]) | tested,
        "elapsed": stages.elapsed,
        "hardware_info": {
            "cpu": environment["cpu"],
            "gpus": environment["devices"],
            "platform": environment["platform"],
        },
        "run_folder": folder,
    }

"""Trying a declared run before it trains: its folder, the disk, one batch, the schedules."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwright.checkpoint_store import free_bytes
from loopwright.components.optimizers import build_optimizer
from loopwright.components.schedules import build_schedule
from loopwright.datasets import Array, ClassLabel
from loopwright.errors import RunFolderError
from loopwright.experiment_config import CheckpointSpec, ExperimentSpec, TrainingSpec
from loopwright.experiment_parts import Parts, first_line
from loopwright.history import InMemoryRunHistory
from loopwright.models.estimators import EstimatorModel
from loopwright.modes import preserved_modes
from loopwright.placeholders import replace_trainer_placeholder_values
from loopwright.problems import Problem
from loopwright.run_folder import refuse_if_taken
from loopwright.seed import preserved_random_states
from loopwright.trainer import Trainer

SCHEDULED = {"schedule": "lr", "momentum_schedule": "momentum"}
"""What each key of `model.training` schedules."""


def folder_problems(path: Path, *, resumes: bool | None) -> list[Problem]:
    """Return why a run cannot have its folder; nothing is written.

    Args:
        path: the folder, or the one in which it will be made.
        resumes: whether it may hold a run that did not finish; None allows whatever is there.
    """
    there = _existing(path)
    reason = None
    if not there.is_dir():
        reason = "a part of this path is a file"
    elif not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        reason = "permission denied"
    try:
        if reason is None and path.exists() and resumes is not None:
            refuse_if_taken(path, resume=resumes)
    except RunFolderError as error:
        return [_in_folder(str(error))]
    except OSError as error:  # such as a name that is too long
        reason = error.strerror
    if reason is None:
        return []
    return [_in_folder(f"cannot write the run folder {path}: {reason}. Name another folder.")]


def disk_problems(path: Path, parts: Parts, spec: ExperimentSpec) -> list[Problem]:
    """Return a problem if the disk of a folder is too small for the checkpoints of a run.

    Counted are weights, buffers and the state of the optimizer, once for each checkpoint that stays
    and once for the one that is being written.
    """
    state = [*parts.model.parameters(), *parts.model.buffers()]
    weights = sum(tensor.nbytes for tensor in state)
    trained = sum(tensor.nbytes for tensor in parts.model.parameters() if tensor.requires_grad)
    size = weights + int(trained * _optimizer_states(spec.model.training))
    count = _checkpoints_at_once(spec.run.checkpoint)
    there = _existing(path)
    if (free := free_bytes(there / "checkpoint")) >= size * count:
        return []
    return [
        _in_folder(
            f"{there} has {free:,} bytes free, and {count} checkpoint{'s' * (count > 1)} of "
            f"{size:,} bytes need {size * count:,}. Name a folder on a larger disk"
            f"{', or keep fewer (run.checkpoint)' * (count > 1)}."
        )
    ]


def _in_folder(message: str) -> Problem:
    return Problem(path=("run", "folder"), message=message.rstrip("."))


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that is there and may be seen."""
    return next(each for each in (path, *path.absolute().parents) if os.path.exists(each))


def _checkpoints_at_once(declared: CheckpointSpec | None) -> int:
    if declared is None:
        return 1
    policy = declared.policy()
    is_periodic = policy.every_steps or policy.every_minutes or policy.every_epochs
    if not (is_periodic or policy.keep_best):
        return 1
    return policy.keep_latest + policy.keep_best + 1


def _optimizer_states(training: TrainingSpec) -> float:
    """Return how many numbers an optimizer keeps for each one that it trains, by one step of it."""
    parameter = nn.Parameter(torch.zeros(4, 4))
    parameter.grad = torch.ones(4, 4)
    try:
        optimizer = build_optimizer(
            training.optimizer.type, training.optimizer.arguments, [parameter]
        )
        optimizer.step()
    except (TypeError, RuntimeError, ValueError):  # one that wants a closure, or sparse gradients
        return 0.0
    kept = [v for v in optimizer.state[parameter].values() if isinstance(v, Tensor)]
    return sum(v.numel() for v in kept if v.numel() > 1) / parameter.numel()


def shape_problems(parts: Parts, spec: ExperimentSpec) -> list[Problem]:
    """Send a batch of zeros, as the data are described, through model and loss.

    What only the data will tell is left to `fit_problems`.
    """
    encode = label_encoder(parts.labels, one_hot=spec.dataset.one_hot)
    features, labels = _zeros(parts.features), _zeros(parts.labels)
    has_model = any(True for _ in parts.model.parameters())
    has_loss = parts.loss is not None or parts.make_trainer is not Trainer
    if features is None or labels is None or not (has_model and has_loss):
        return []
    return _batch_problems(parts, spec, (features, encode(labels)))


def fit_problems(parts: Parts, spec: ExperimentSpec, data: tuple[Tensor, Tensor]) -> list[Problem]:
    """Send one small batch through model and loss, and make the schedules once on trial."""
    problems = _batch_problems(parts, spec, (data[0][:2], data[1][:2]))
    for key, field in SCHEDULED.items():
        if error := _try_schedule(spec.model.training, key, field, len(data[0])):
            problems.append(Problem(path=("model", "training", key), message=error))
    return problems


def label_encoder(labels: Array, *, one_hot: bool) -> Callable[[Tensor], Tensor]:
    """Return what turns labels into what the loss compares with."""
    if not (one_hot and isinstance(labels, ClassLabel)):
        return lambda values: values
    return lambda values: functional.one_hot(values, labels.num_classes).float()


def _zeros(info: Array) -> Tensor | None:
    if None in info.shape or not isinstance(info.dtype, torch.dtype):
        return None
    dtype = torch.float32 if info.dtype == torch.uint8 else info.dtype  # as pixels reach the model
    return torch.zeros((2, *(size or 0 for size in info.shape)), dtype=dtype)


def _batch_problems(
    parts: Parts, spec: ExperimentSpec, batch: tuple[Tensor, Tensor]
) -> list[Problem]:
    """Return why two samples do not go through, if so; the model stays as it is."""
    if isinstance(parts.model, EstimatorModel):
        return []  # it takes nothing before it is fitted
    try:
        trial = parts.make_trainer(parts.model, parts.loss, parts.optimizer, (), device="cpu")
    except (ValueError, TypeError) as error:
        path = ("model", "training", "objective") if spec.model.training.objective else ("model",)
        return [Problem(path=path, message=first_line(error))]
    try:
        with torch.no_grad(), preserved_random_states(), preserved_modes(parts.model):
            parts.model.eval()
            trial.calculate_eval_batch_loss(batch)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = first_line(error)
        message = f"a batch of the data does not go through model and loss: {reason}"
        return [Problem(path=("model",), message=message)]
    return []


def _try_schedule(training: TrainingSpec, key: str, field: str, num_samples: int) -> str | None:
    schedule = getattr(training, key)
    if schedule is None:
        return None
    batches = -(-num_samples // training.batch_size)
    steps = -(-batches // training.gradient_accumulation_steps)
    config = SimpleNamespace(
        num_epochs=training.epochs,
        num_update_steps_per_epoch=steps,
        num_local_update_steps_per_epoch=steps,
    )
    run = SimpleNamespace(
        run_config=config,
        _train_dataloader=range(batches),
        _eval_dataloader=range(1),
        run_history=InMemoryRunHistory(),
    )
    optimizer = build_optimizer(
        training.optimizer.type, training.optimizer.arguments, [nn.Parameter(torch.zeros(1, 1))]
    )
    try:
        create = build_schedule(schedule.type, schedule.arguments, field=field)
        replace_trainer_placeholder_values(run, create)(optimizer)
    except (ValueError, TypeError, KeyError) as error:
        return first_line(error)
    rate = float(optimizer.param_groups[0]["lr"])
    if rate >= 0:
        return None
    given = ", ".join(f"{name}={value}" for name, value in schedule.arguments.items())
    return f"the learning rate begins at {rate:g} ({given}), expected 0 or more"

"""Finding and making the parts that a declared run names, with a pointed message each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from loopwright.arguments import accepts, argument_problems
from loopwright.augmentors import Augmentation, AugmentingTrainer, Augmentor, augmentors
from loopwright.callbacks import (
    SaveBestModelCallback,
    SaveTrainingStateCallback,
    WSDCheckpointCallback,
)
from loopwright.components import losses, metrics, optimizers, schedules
from loopwright.components.callbacks import callbacks
from loopwright.components.objectives import MakeTrainer, objectives
from loopwright.datasets import Array, ClassLabel, DataSource, datasets
from loopwright.device import pick_device
from loopwright.events import TrainerCallback
from loopwright.experiment_config import (
    ComponentSpec,
    ExperimentSpec,
    TrainingSpec,
    component_paths,
)
from loopwright.extras import require
from loopwright.models import build_model, models
from loopwright.models.base import INFERRED as MODEL_INFERRED
from loopwright.models.estimators import EstimatorModel, is_estimator
from loopwright.models.gans import OpposedNetworks
from loopwright.preprocessors import preprocessors
from loopwright.preprocessors.pipeline import Pipeline
from loopwright.problems import Problem
from loopwright.registry import UnknownNameError, nearest_name
from loopwright.trackers import trackers
from loopwright.trainer import Trainer
from loopwright.trainers.estimators import EstimatorTrainer
from loopwright.trainers.text_samples import ContinuationsCallback, TranslationsCallback

_FINDERS: Mapping[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    "data set": (datasets.get, ()),
    "model": (models.get, MODEL_INFERRED),
    "optimizer": (optimizers.optimizers.get, ("params",)),
    "schedule": (schedules.find_schedule, ("optimizer",)),
    "loss": (losses.losses.get, ()),
    "objective": (objectives.get, ()),
    "preprocessor": (preprocessors.get, ()),
    "augmentor": (augmentors.get, ()),
    "metric": (metrics.find_metric, metrics.INFERRED),
    "tracker": (trackers.get, ()),
    "callback": (callbacks.get, ()),
}
"""How to find a part of each kind, and which of its parameters are filled in for it."""


_OPTIMIZER = ("model", "training", "optimizer")
UNKNOWN = Array((None,), torch.float32)


@dataclass
class Parts:
    """Holds what a run is made of, and every mistake that showed while it was made."""

    pipeline: Pipeline
    source: DataSource | None = None
    features: Array = UNKNOWN
    """What the model gets. A size is None that only the data, or fitting on them, will tell."""
    labels: Array = UNKNOWN
    augmentors: list[Augmentor] = field(default_factory=list)
    augmentation: Augmentation | None = None
    """Those, once it is known what the model gets; None without any."""
    model: nn.Module = field(default_factory=nn.Identity)
    loss: nn.Module | None = None
    """None where the objective has its own."""
    loss_name: str = ""
    make_trainer: MakeTrainer = Trainer
    optimizer: Optimizer | dict[str, Optimizer] | None = None
    """One for each of several networks by name, where the model trains them apart."""
    metrics: dict[str, Any] = field(default_factory=dict)
    train_metrics: dict[str, Any] = field(default_factory=dict)
    callbacks: list[TrainerCallback] = field(default_factory=list)
    predicts_classes: bool = False
    """Whether the labels are classes, and are what is trained for."""


def part_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Return every unknown name and every argument that does not fit the part it is for."""
    problems = []
    for kind, path, raw in component_paths(values):
        name, arguments = _split(raw)
        if name is None:
            continue  # no part, or one whose shape is wrong, which the schema tells
        find, supplied = _FINDERS[kind]
        try:
            part = find(name)
        except UnknownNameError as error:
            type_path = path if isinstance(raw, str) else (*path, "type")
            problems.append(
                Problem(path=type_path, message=str(error).rstrip("."), suggestion=error.nearest)
            )
            continue
        if isinstance(part, schedules.Schedule):
            arguments = _numbers_for_placeholders(part.fill(arguments))
            part = part.scheduler
        problems += [
            replace(problem, path=(*path, *problem.path))
            for problem in argument_problems(part, arguments, supplied=supplied)
        ]
    return problems


def make_parts(
    spec: ExperimentSpec, make_source: Callable[[], DataSource]
) -> tuple[Parts, list[Problem]]:
    """Make the parts of a run; where one cannot be made, a problem says why and it is left out.

    The weights are drawn from torch's global generator: seed it before.
    """
    problems: list[Problem] = _device_problems(spec.run.device)
    parts = Parts(pipeline=_make_pipeline(spec, problems))
    for index, component in enumerate(spec.dataset.data_augmentors):
        with _telling(problems, "dataset", "data_augmentors", index):
            parts.augmentors.append(augmentors.get(component.type)(**component.arguments))
    _describe_data(parts, spec, make_source, problems)
    if not needs_fitting(parts, spec):
        problems += add_model(parts, spec)
    if parts.source is not None:
        _add_what_fits_the_labels(parts, spec, problems)
    is_refused = any(problem.path == _OPTIMIZER for problem in problems)
    if parts.optimizer is None and not is_refused:
        # Before there is a model, one parameter shows what is refused.
        problems += _add_optimizer(parts, spec, [nn.Parameter(torch.zeros(1, 1))])
    return parts, problems


def _add_what_fits_the_labels(parts: Parts, spec: ExperimentSpec, problems: list[Problem]) -> None:
    """Make loss and metrics, and the callbacks, which may watch one of those."""
    training = spec.model.training
    with _telling(problems, "model", "training", "objective"):
        parts.predicts_classes = isinstance(parts.labels, ClassLabel) and not training.objective
        if training.objective is not None:
            make = objectives.get(training.objective.type)
            parts.make_trainer = make(**training.objective.arguments)
    with _telling(problems, "model", "training", "loss"):
        _add_loss(parts, training)
    for index, component in enumerate(choose_metrics(spec, parts.labels)):
        with _telling(problems, "model", "training", "metrics", index):
            for kept in (parts.metrics, parts.train_metrics):
                kept[_metric_name(component.type)] = metrics.build_metric(
                    component.type, component.arguments, parts.labels
                )
    made: dict[int, TrainerCallback] = {}
    for index, component in enumerate(spec.run.callbacks):
        with _telling(problems, "run", "callbacks", index):
            made[index] = callbacks.get(component.type)(**component.arguments)
    parts.callbacks = list(made.values())
    for index, callback in made.items():
        watched = getattr(callback, "watch_metric", None)
        path = ("run", "callbacks", index, "watch_metric")
        if problem := _metric_problem(parts, spec, watched, path):
            problems.append(problem)
    if problem := _policy_problem(parts, spec):
        problems.append(problem)


def _make_pipeline(spec: ExperimentSpec, problems: list[Problem]) -> Pipeline:
    steps = []
    for index, component in enumerate(spec.dataset.preprocessors):
        with _telling(problems, "dataset", "preprocessors", index):
            step = preprocessors.get(component.type)(**component.arguments)
            if spec.dataset.chunk_size is not None:
                step.require_chunks()
            steps.append(step)
    return Pipeline(steps)


def _describe_data(
    parts: Parts,
    spec: ExperimentSpec,
    make_source: Callable[[], DataSource],
    problems: list[Problem],
) -> None:
    """Find the data set, and follow its description through the preprocessors."""
    with _telling(problems, "dataset", "dataset"):
        source = make_source()
        parts.features, parts.labels = source.features_info, source.labels_info
        parts.source = source
    if parts.source is None or len(parts.pipeline.steps) < len(spec.dataset.preprocessors):
        parts.features = UNKNOWN
        return
    if spec.dataset.one_hot and not isinstance(parts.labels, ClassLabel):
        problems.append(
            Problem(path=("dataset", "one_hot"), message="the labels are no classes", value=True)
        )
    for index, step in enumerate(parts.pipeline.steps):
        with _telling(problems, "dataset", "preprocessors", index):
            parts.features = step.describe(parts.features)
            continue
        parts.features = UNKNOWN
        return
    if parts.features.dtype is str:
        message = (
            "the features are text: end with characters, tokenizer, tfidf or binary_vectorizer"
        )
        problems.append(Problem(path=("dataset", "preprocessors"), message=message))
        parts.features = UNKNOWN


def add_augmentation(parts: Parts, seed: int) -> list[Problem]:
    """Put the augmentors together for the described features; returns why that cannot be."""
    problems: list[Problem] = []
    if parts.augmentors:
        with _telling(problems, "dataset", "data_augmentors"):
            if parts.make_trainer is not Trainer:
                raise ValueError(
                    "augmentors go with a network and a loss on labels, and neither with an "
                    "objective nor with an estimator"
                )
            augmentation = Augmentation(parts.augmentors, parts.features, seed)
            parts.augmentation = augmentation
            parts.make_trainer = partial(AugmentingTrainer, augmentation=augmentation)
    return problems


def needs_fitting(parts: Parts, spec: ExperimentSpec) -> bool:
    """Whether what the model has to know shows only when the preprocessors are fitted."""
    component = spec.model.model
    factory = models.get(component.type)
    if is_estimator(factory):
        return False
    takes_tokens = accepts(factory, "vocabulary_size") and parts.features.dtype == torch.int64
    declares_them = "vocabulary_size" in component.arguments or parts.features.vocabulary_size
    waits = takes_tokens and not declares_them and bool(parts.pipeline.steps)
    return None in parts.features.shape or waits


def add_model(parts: Parts, spec: ExperimentSpec) -> list[Problem]:
    """Make the model and its optimizer for the described data; returns why they cannot be made."""
    problems: list[Problem] = []
    with _telling(problems, "model", "model"):
        component = spec.model.model
        parts.model = build_model(
            component.type,
            component.arguments,
            features=parts.features,
            labels=parts.labels,
            seed=spec.run.seed,
        )
        if isinstance(parts.model, EstimatorModel):
            _let_fit_itself(parts, parts.model, spec)
            return problems
        if not isinstance(parts.model, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got {type(parts.model).__name__}")
        if not any(parameter.requires_grad for parameter in parts.model.parameters()):
            raise ValueError("the model has no parameter to train")
        if isinstance(parts.model, OpposedNetworks):
            problems += _add_optimizer(parts, spec, parts.model.parameters_by_optimizer())
        else:
            problems += _add_optimizer(parts, spec, list(parts.model.parameters()))
    return problems


def _let_fit_itself(parts: Parts, model: EstimatorModel, spec: ExperimentSpec) -> None:
    """Choose the trainer for an estimator, and the loss for what it predicts.

    Raises:
        NotImplementedError: it cannot be fitted by chunks, and the data come in chunks.
        ValueError: it predicts something else than the labels are.
    """
    training, chunk_size = spec.model.training, spec.dataset.chunk_size
    base, is_class = require("sklearn.base", "sklearn"), isinstance(parts.labels, ClassLabel)
    if (base.is_regressor if is_class else base.is_classifier)(model.estimator):
        kinds = ("numbers", "classes") if is_class else ("classes", "numbers")
        raise ValueError("{} predicts {}, and the labels are {}".format(model.name, *kinds))
    if is_class and parts.labels.shape:
        raise ValueError(
            f"{model.name} predicts one class for a sample, and a label has the shape "
            f"{parts.labels.shape}"
        )
    if chunk_size is not None and not model.learns_in_parts:
        raise NotImplementedError(
            f"{model.name} learns from all rows at once: leave out dataset.chunk_size, or choose "
            "an estimator with partial_fit, such as sklearn.linear_model:SGDClassifier"
        )
    if training.objective is not None:
        raise ValueError(f"{model.name} learns labels: leave out model.training.objective")
    plain = TrainingSpec()
    heeded = {"metrics", "epochs"} if chunk_size is not None else {"metrics"}
    parts.make_trainer = partial(
        EstimatorTrainer,
        chunk_size=chunk_size,
        ignored=[
            name
            for name in TrainingSpec.model_fields
            if name not in heeded and getattr(training, name) != getattr(plain, name)
        ],
    )
    if is_class and not model.is_probabilistic:
        parts.loss, parts.loss_name = losses.ZeroOne(), "zero_one"
    else:
        _add_loss(parts, plain)


def _add_optimizer(
    parts: Parts,
    spec: ExperimentSpec,
    parameters: list[nn.Parameter] | dict[str, list[nn.Parameter]],
) -> list[Problem]:
    problems: list[Problem] = []
    with _telling(problems, *_OPTIMIZER):
        component = spec.model.training.optimizer
        make = partial(optimizers.build_optimizer, component.type, component.arguments)
        if isinstance(parameters, dict):
            parts.optimizer = {name: make(each) for name, each in parameters.items()}
        else:
            parts.optimizer = make(parameters)
    return problems


def _policy_problem(parts: Parts, spec: ExperimentSpec) -> Problem | None:
    """Return a problem if checkpoints are ranked by a metric that this run will not record."""
    declared = spec.run.checkpoint
    if declared is None or not (declared.keep_best or "watch" in declared.model_fields_set):
        return None
    return _metric_problem(parts, spec, declared.watch, ("run", "checkpoint", "watch"))


def _also_recorded(parts: Parts) -> list[str]:
    """Return the metrics of evaluations that callbacks and the objective record."""
    recorders = (*parts.callbacks, parts.make_trainer)
    return [name for each in recorders for name in getattr(each, "records", ())]


def _metric_problem(
    parts: Parts, spec: ExperimentSpec, watched: Any, path: tuple[str | int, ...]
) -> Problem | None:
    known = ["train_loss_epoch", *(f"train_{name}" for name in parts.train_metrics)]
    if isinstance(parts.optimizer, dict):
        known += [f"train_{name}_loss_epoch" for name in parts.optimizer]
    if spec.dataset.samples.validation is not None:
        known += ["eval_loss_epoch", *parts.metrics, *_also_recorded(parts)]
        known += [f"ema_model_{name}" for name in ("eval_loss_epoch", *parts.metrics)]
    if not isinstance(watched, str) or watched in known:
        return None
    hint = "" if spec.dataset.samples.validation else "; dataset.samples names no validation part"
    return Problem(
        path=path,
        message=f"expected a metric of this run (known: {', '.join(known)}){hint}",
        value=watched,
        suggestion=nearest_name(watched, known),
    )


def place_files(parts: Parts, folder: Path) -> None:
    """Let callbacks write below the run's folder what they name by a relative path."""
    for callback in parts.callbacks:
        if isinstance(callback, SaveBestModelCallback):
            callback.save_path = folder / callback.save_path
        elif isinstance(callback, SaveTrainingStateCallback | WSDCheckpointCallback):
            callback.save_dir = folder / callback.save_dir


def name_tokens(parts: Parts) -> None:
    """Tell callbacks that write texts what the tokens of the data stand for."""
    names = parts.labels.names
    for callback in parts.callbacks:
        if isinstance(callback, TranslationsCallback):
            callback.source_names = callback.source_names or parts.features.tokens
            callback.target_names = callback.target_names or names
        elif isinstance(callback, ContinuationsCallback):
            callback.characters = callback.characters or names


def _add_loss(parts: Parts, training: TrainingSpec) -> None:
    """Make the declared loss, or the one for the labels, unless model or objective has its own."""
    if parts.loss is not None or (training.objective is not None and training.loss is None):
        return
    component = training.loss or default_loss(parts.labels)
    is_class = isinstance(parts.labels, ClassLabel)
    if component.type == "cross_entropy" and not (is_class or training.objective):
        raise ValueError("cross_entropy compares classes, and the labels are numbers")
    parts.loss = losses.losses.get(component.type)(**component.arguments)
    parts.loss_name = component.type


def default_loss(labels: Array) -> ComponentSpec:
    """Return the loss for labels where none is declared."""
    is_class = isinstance(labels, ClassLabel)
    return ComponentSpec(type="cross_entropy" if is_class else "mean_squared_error")


def choose_metrics(spec: ExperimentSpec, labels: Array) -> tuple[ComponentSpec, ...]:
    """Return the declared metrics, or those for the labels where none are declared."""
    if spec.model.training.metrics is not None:
        return spec.model.training.metrics
    if spec.model.training.objective is not None:
        return ()
    return (ComponentSpec(type="accuracy"),) if isinstance(labels, ClassLabel) else ()


@contextmanager
def _telling(problems: list[Problem], *path: str | int) -> Iterator[None]:
    """Turn what a part refuses into a problem at its place."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        problems.append(Problem(path=path, message=first_line(error)))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _device_problems(device: str | None) -> list[Problem]:
    try:
        pick_device(device)
    except (ValueError, RuntimeError) as error:
        message = f"expected a device of this machine ({first_line(error)})"
        return [Problem(path=("run", "device"), message=message, value=device)]
    return []


def _split(raw: Any) -> tuple[str | None, dict[str, Any]]:
    if isinstance(raw, str) and raw:
        return raw, {}
    if isinstance(raw, Mapping) and isinstance(raw.get("type"), str) and raw["type"]:
        return raw["type"], {key: value for key, value in raw.items() if key != "type"}
    return None, {}


def _numbers_for_placeholders(arguments: Mapping[str, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool, list, dict, type(None))
    return {key: v if isinstance(v, plain) else 1 for key, v in arguments.items()}


def _metric_name(name: str) -> str:
    return name.rpartition(":")[2].lower() if ":" in name else name

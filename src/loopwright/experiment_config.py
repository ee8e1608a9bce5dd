"""The declared run as frozen values: what the keys of a configuration are and may hold."""

import json
import secrets
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from loopwright.arguments import describe_error
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.config_file import ConfigSource, find_unplain
from loopwright.datasets.splits import complete_samples
from loopwright.extras import require
from loopwright.problems import Problem, ProblemsError

require("pydantic", "cli")  # says how to install it, before the import below fails without a hint

from pydantic import (  # noqa: E402
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)


class Spec(BaseModel):
    """Is a part of the configuration: frozen, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _type_as_mapping(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class ComponentSpec(Spec):
    """Names a registered part, or a path to one, and holds the arguments for it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1)

    @property
    def arguments(self) -> dict[str, Any]:
        """Return all keys but `type`."""
        return dict(self.model_extra or {})


Component = Annotated[ComponentSpec, BeforeValidator(_type_as_mapping)]
"""A part: its name or path as `type`, and its arguments. A bare name stands for one without."""


class SamplesSpec(Spec):
    """Says how the rows are divided: fractions as floats, counts of rows as integers."""

    train: int | float | None = Field(default=None, gt=0)
    validation: int | float | None = Field(default=None, gt=0)
    """Rows to evaluate on after each epoch; not part of the test."""
    test: int | float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "SamplesSpec":
        self.complete()
        return self

    def complete(self) -> dict[str, float]:
        """Return the parts with what was left out filled in."""
        return complete_samples(train=self.train, test=self.test, validation=self.validation)


class DatasetSpec(Spec):
    """Says which data there are and what is done to them before training."""

    dataset: Component
    samples: SamplesSpec = SamplesSpec()
    preprocessors: tuple[Component, ...] = ()
    """Applied in this order, each fitted on the training part as those before it left it."""
    data_augmentors: tuple[Component, ...] = ()
    """Applied in this order to batches of the training part, after the preprocessors."""
    shuffle: bool = True
    """Whether rows are shuffled before they are divided."""
    one_hot: bool = False
    """Whether labels become one row of zeros and a one."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of that shuffle; the seed of the run where it is left out."""
    chunk_size: int | None = Field(default=None, ge=1)
    """Rows in memory at once while data are read and preprocessed; what comes of it is kept on
    disk during the run. All of them where it is left out."""


class TrainingSpec(Spec):
    """Says how the model is fitted."""

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Samples in a micro-batch."""
    optimizer: Component = ComponentSpec(type="adam")
    schedule: Component | None = None
    """Learning rate over the run; steps once per update."""
    momentum_schedule: Component | None = None
    """Momentum over the run, likewise."""
    loss: Component | None = None
    """By default cross_entropy for classes and mean_squared_error for numbers."""
    objective: Component | None = None
    """What is trained for in the place of a loss on labels, such as an autoencoder."""
    metrics: tuple[Component, ...] | None = None
    """By default accuracy for classes and none for numbers."""
    max_steps: int | None = Field(default=None, ge=1)
    """Updates after which training ends even if epochs are left."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    gradient_clip_value: float | None = Field(default=None, gt=0)
    gradient_clip_norm: float | None = Field(default=None, gt=0)


class ModelSpec(Spec):
    """Says which model is fitted, and how."""

    model: Component
    training: TrainingSpec = TrainingSpec()


def _refuse_status(name: str) -> str:
    if name == "status":
        raise ValueError("is what the run itself tells of how it ended; give the tag another name")
    return name


TagName = Annotated[str, AfterValidator(_refuse_status)]


class TrackingSpec(Spec):
    """Says where else the run is reported; the run folder always holds all of it."""

    run_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Of a form that every store of runs takes."""
    tags: dict[TagName, str | int | float | bool] = Field(default_factory=dict)
    log_params: bool = Field(
        default=True, validation_alias=AliasChoices("log_params", "log_model_params")
    )
    """Whether the model's arguments are logged; the documents know both names."""
    log_metrics: bool = True
    log_training_params: bool = True
    trackers: tuple[Component, ...] = ()
    """In this order; one that fails or hangs is told of and holds nothing up."""


class CheckpointSpec(Spec):
    """Says when checkpoints are saved and which stay; the fields of `CheckpointPolicy`."""

    every_steps: int | None = Field(default=None, ge=1)
    every_minutes: float | None = Field(default=None, gt=0)
    every_epochs: int | None = Field(default=None, ge=1)
    keep_latest: int = Field(default=CheckpointPolicy.keep_latest, ge=1)
    keep_best: int = Field(default=CheckpointPolicy.keep_best, ge=0)
    watch: str = Field(default=CheckpointPolicy.watch, min_length=1)
    greater_is_better: bool = CheckpointPolicy.greater_is_better
    stop_when_save_fails: bool = CheckpointPolicy.stop_when_save_fails

    def policy(self) -> CheckpointPolicy:
        """Return what the trainer takes."""
        return CheckpointPolicy(**self.model_dump())


class RunSpec(Spec):
    """Says where and how the run happens."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    folder: str | None = Field(default=None, min_length=1)
    """The run's own folder; runs/NAME-TIMESTAMP where it is left out. Of a folder in the user's
    cache a copy is kept at a URL, where this is one."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Decides the weights at the start, the order of samples and dropout; drawn anew and noted
    where it is left out."""
    device: str | None = None
    """Such as cpu, cuda or cuda:1; the accelerator of the machine where it is left out."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that torch uses on the CPU during the run; as set before where it is left out."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    step_mode: Literal["eager", "compile", "capture", "auto"] | None = None
    """How a step is executed; left out, it is auto for a registered model, and eager for one that
    is named by a path."""
    on_out_of_memory: Literal["stop", "split"] = "stop"
    """Whether to go on with micro-batches in parts."""
    checkpoint: CheckpointSpec | None = None
    """When to save besides the end; where it is left out, when a signal ends the run alone."""
    callbacks: tuple[Component, ...] = ()


class ExperimentSpec(Spec):
    """Is a whole declared run."""

    dataset: DatasetSpec
    model: ModelSpec
    tracking: TrackingSpec = TrackingSpec()
    run: RunSpec = RunSpec()

    @property
    def seed(self) -> int:
        """The seed of the run."""
        assert self.run.seed is not None, "settle fills it in"
        return self.run.seed

    @property
    def split_seed(self) -> int:
        """The seed of the shuffle before the rows are divided."""
        return self.seed if self.dataset.seed is None else self.dataset.seed


def settle(spec: ExperimentSpec) -> ExperimentSpec:
    """Fill in what is drawn anew for each experiment, the seed and the run's id, and the mode."""
    seed = spec.run.seed if spec.run.seed is not None else secrets.randbits(32)
    mode = spec.run.step_mode or ("eager" if ":" in spec.model.model.type else "auto")
    run_id = spec.tracking.run_id or uuid.uuid4().hex
    return spec.model_copy(
        update={
            "run": spec.run.model_copy(update={"seed": seed, "step_mode": mode}),
            "tracking": spec.tracking.model_copy(update={"run_id": run_id}),
        }
    )


def schema_problems(source: ConfigSource) -> tuple[ExperimentSpec | None, list[Problem]]:
    """Check keys, types and ranges; returns the spec, or None and every mistake found."""
    problems = find_unplain(source.values)
    if problems:
        return None, problems
    spec = None
    try:
        spec = ExperimentSpec.model_validate_json(json.dumps(source.values), strict=True)
    except ValidationError as error:
        problems = list(_describe(error, source.values))
    return spec, problems


def raise_problems(problems: list[Problem], source: ConfigSource) -> None:
    """Raise all mistakes at once, in the order of the file; without any do nothing.

    Raises:
        ProblemsError: there is at least one.
    """
    if not problems:
        return
    placed = [replace(p, source=p.source or source.place(p.path)) for p in problems]
    placed.sort(key=lambda p: _line_number(p.source))
    raise ProblemsError(placed, name=source.name)


def component_paths(values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str | int, ...], Any]]:
    """Give the kind, path and raw value of every part named in a configuration, valid or not."""
    for kind, path in _COMPONENTS:
        yield kind, path, find_value(values, path)
    for kind, path in _COMPONENT_LISTS:
        items = find_value(values, path)
        for index, item in enumerate(items if isinstance(items, list | tuple) else ()):
            yield kind, (*path, index), item


_COMPONENTS = (
    ("data set", ("dataset", "dataset")),
    ("model", ("model", "model")),
    ("optimizer", ("model", "training", "optimizer")),
    ("schedule", ("model", "training", "schedule")),
    ("schedule", ("model", "training", "momentum_schedule")),
    ("loss", ("model", "training", "loss")),
    ("objective", ("model", "training", "objective")),
)
_COMPONENT_LISTS = (
    ("preprocessor", ("dataset", "preprocessors")),
    ("augmentor", ("dataset", "data_augmentors")),
    ("metric", ("model", "training", "metrics")),
    ("tracker", ("tracking", "trackers")),
    ("callback", ("run", "callbacks")),
)


def find_value(values: Any, path: tuple[str | int, ...]) -> Any:
    """Return what stands at a path; None where nothing does."""
    for part in path:
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def _describe(error: ValidationError, values: Mapping[str, Any]) -> Iterator[Problem]:
    """Give one problem for each place; of a union, what each of its types expects."""
    by_path: dict[tuple[str | int, ...], list[Problem]] = {}
    for one in error.errors(include_url=False):
        path = _path_in(values, one["loc"], is_missing=one["type"] == "missing")
        problem = describe_error({**one, "loc": path}, _known_keys(path))
        by_path.setdefault(path, []).append(problem)
    for problems in by_path.values():
        messages = dict.fromkeys(p.message.removeprefix("expected ") for p in problems)
        joined = " or ".join(messages)
        if problems[0].message.startswith("expected "):
            joined = f"expected {joined}"
        yield replace(problems[0], message=joined)


def _path_in(values: Any, loc: tuple[str | int, ...], *, is_missing: bool) -> tuple[str | int, ...]:
    """Return the part of a pydantic location that leads through the values, without type names."""
    path: list[str | int] = []
    for depth, part in enumerate(loc, start=1):
        if not isinstance(values, Mapping | list | tuple):
            break
        if isinstance(values, Mapping) and part not in values:
            return (*path, part) if is_missing and depth == len(loc) else tuple(path)
        if not isinstance(values, Mapping) and not isinstance(part, int):
            break
        path.append(part)
        values = find_value(values, (part,))
    return tuple(path)


def _known_keys(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Return the keys that may stand beside the last one of a path."""
    spec: type[Spec] = ExperimentSpec
    for part in path[:-1]:
        field = spec.model_fields.get(str(part))
        inner = None if field is None else _spec_in(field.annotation)
        if inner is None:
            return ()
        spec = inner
    return tuple(spec.model_fields)


def _spec_in(annotation: Any) -> type[Spec] | None:
    """Return the spec that an annotation names, alone or beside None."""
    for kind in get_args(annotation) or (annotation,):
        if isinstance(kind, type) and issubclass(kind, Spec):
            return kind
    return None


def _line_number(place: str | None) -> int:
    digits = (place or "").rpartition(" ")[2]
    return int(digits) if digits.isdigit() else 0

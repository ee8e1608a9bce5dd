"""The three parts that declare an experiment, as objects: data set, model, tracking."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from loopwright.config_file import ConfigSource
from loopwright.datasets import DataSource, make_source
from loopwright.experiment_config import (
    DatasetSpec,
    ModelSpec,
    TrackingSpec,
    raise_problems,
    schema_problems,
)
from loopwright.experiment_parts import part_problems
from loopwright.experiment_tracking import make_trackers
from loopwright.models import models
from loopwright.models.base import left_to_data
from loopwright.preprocessors import Preprocessor, preprocessors
from loopwright.problems import Problem, ProblemsError
from loopwright.trackers import TrackerList

__all__ = ["Dataset", "Declared", "Model", "Tracking"]

_STAND_INS: Mapping[str, Any] = {
    "dataset": {"dataset": {"type": "digits"}},
    "model": {"model": {"type": "mlp"}},
}


class Declared:
    """Holds checked values of one part of an experiment, apart from the caller's (G-25)."""

    _name: str

    def __init__(self, values: Mapping[str, Any]) -> None:
        given = {key: copy.deepcopy(value) for key, value in values.items() if value is not None}
        source = ConfigSource({**_STAND_INS, self._name: given})
        spec, problems = schema_problems(source)
        problems += [p for p in part_problems(source.values) if p.path[0] == self._name]
        raise_problems(problems, source)
        self.values: dict[str, Any] = given
        self.spec: Any = getattr(spec, self._name)

    def to_dict(self) -> dict[str, Any]:
        """Return all values, defaults filled in; they make an equal object again."""
        values: dict[str, Any] = self.spec.model_dump(mode="json")
        return values

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.spec == self.spec

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        listed = ", ".join(f"{key}={value!r}" for key, value in self.values.items())
        return f"{type(self).__name__}({listed})"


class Dataset(Declared):
    """Says which data there are and what is done to them; the keys are those of `dataset` in YAML.

    Args:
        dataset: the data set's `type`, and arguments for it.
        samples: `train`, `test` and `validation`, as fractions (float) or counts of rows (int).
        preprocessors: steps in order, each a `type` and arguments.
        data_augmentors: likewise, for the training part alone.
        shuffle: whether rows are shuffled before they are divided.
        one_hot: whether class labels become rows of zeros and a one.
        seed: of that shuffle; that of the run where it is None.
        chunk_size: rows that are loaded and preprocessed at once; all where it is None.

    Raises:
        ProblemsError: a key, name, type or range is wrong; a `ValueError`.
    """

    _name = "dataset"
    spec: DatasetSpec

    def __init__(
        self,
        dataset: Mapping[str, Any] | str,
        samples: Mapping[str, float] | None = None,
        preprocessors: Iterable[Mapping[str, Any] | str] | None = None,
        data_augmentors: Iterable[Mapping[str, Any] | str] | None = None,
        shuffle: bool = True,
        one_hot: bool = False,
        seed: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(
            {
                "dataset": dataset,
                "samples": samples,
                "preprocessors": None if preprocessors is None else list(preprocessors),
                "data_augmentors": None if data_augmentors is None else list(data_augmentors),
                "shuffle": shuffle,
                "one_hot": one_hot,
                "seed": seed,
                "chunk_size": chunk_size,
            }
        )
        self._source: DataSource | None = None
        self._steps: list[Preprocessor] | None = None

    @property
    def dataset(self) -> DataSource:
        """The data set, made on first use and then kept."""
        if self._source is None:
            component = self.spec.dataset
            self._source = make_source(component.type, component.arguments)
        return self._source

    @property
    def preprocessors(self) -> list[Preprocessor]:
        """The preprocessors, made on first use and then kept; a training fits them."""
        if self._steps is None:
            self._steps = [
                preprocessors.get(each.type)(**each.arguments) for each in self.spec.preprocessors
            ]
        return self._steps

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        return values | {"samples": self.spec.samples.complete()}


class Model(Declared):
    """Says which model is fitted, and how; the keys are those of `model` in YAML.

    Args:
        model: the model's `type`, and arguments for it.
        training: `epochs`, `batch_size`, `optimizer` and the other settings of the fit.

    Raises:
        ProblemsError: a key, name, type or range is wrong; a `ValueError`.
    """

    _name = "model"
    spec: ModelSpec

    def __init__(
        self, model: Mapping[str, Any] | str, training: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__({"model": model, "training": training})
        self._module: nn.Module | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the model: what was declared without `type` (G-32)."""
        return self.spec.model.arguments

    @property
    def model(self) -> nn.Module:
        """The network, made on first use and then kept.

        Raises:
            ValueError: shapes are left out, which only the data of an experiment can fill in.
        """
        if self._module is None:
            factory = models.get(self.spec.model.type)
            if missing := left_to_data(factory, self.parameters):
                raise ValueError(
                    f"The model's {' and '.join(missing)} come from the data. Declare them, or use "
                    "the model of an Experiment after training."
                )
            self._module = factory(**self.parameters)
        return self._module

    @model.setter
    def model(self, module: nn.Module) -> None:
        self._module = module

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.spec.model.model_dump(), "training": self.values.get("training", {})}


class Tracking(Declared):
    """Says where else a run is reported; the keys are those of `tracking` in YAML.

    Args:
        run_id: drawn where it is None.
        tags: further words about the run.
        log_params: whether the model's arguments are logged.
        log_metrics: whether metrics are logged.
        log_training_params: whether the settings of the fit are logged.
        trackers: each a `type` and arguments.
        log_model_params: another name of `log_params` (G-33, G-34).

    Raises:
        ProblemsError: a key, name, type or range is wrong; a `ValueError`.
    """

    _name = "tracking"
    spec: TrackingSpec

    def __init__(
        self,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        log_params: bool | None = None,
        log_metrics: bool = True,
        log_training_params: bool = True,
        trackers: Iterable[Mapping[str, Any] | str] | None = None,
        *,
        log_model_params: bool | None = None,
    ) -> None:
        super().__init__(
            {
                "run_id": run_id or uuid.uuid4().hex,
                "tags": None if tags is None else dict(tags),
                "log_params": log_params,
                "log_model_params": log_model_params,
                "log_metrics": log_metrics,
                "log_training_params": log_training_params,
                "trackers": None if trackers is None else list(trackers),
            }
        )
        self._trackers: TrackerList | None = None

    @property
    def trackers(self) -> TrackerList:
        """The trackers, made on first use and then kept; while a run goes on they take more.

        Raises:
            ProblemsError: one cannot be made.
        """
        if self._trackers is None:
            made, problems = make_trackers(self.spec.trackers)
            raise_problems(problems, ConfigSource(self.values))
            self._trackers = made
        return self._trackers

    def problems(self) -> list[Problem]:
        """Return why trackers cannot be made, if so."""
        try:
            _ = self.trackers
        except ProblemsError as error:
            return list(error.problems)
        return []

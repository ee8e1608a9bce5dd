"""A declared run before it trains: its parts made and checked, its rows read and preprocessed."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from loopwright.augmentors import AugmentingTrainer
from loopwright.config_file import ConfigSource
from loopwright.datasets import Array
from loopwright.datasets.downloads import DownloadManager, cache_folder
from loopwright.datasets.splits import split_indices
from loopwright.errors import ConfigurationError
from loopwright.experiment_checks import (
    disk_problems,
    folder_problems,
    label_encoder,
    shape_problems,
)
from loopwright.experiment_components import Dataset, Tracking
from loopwright.experiment_config import ExperimentSpec, raise_problems
from loopwright.experiment_parts import (
    Parts,
    add_augmentation,
    add_model,
    first_line,
    make_parts,
    needs_fitting,
)
from loopwright.experiment_place import Place
from loopwright.fitted import Fitted
from loopwright.preprocessors.pipeline import Pipeline, Preparation
from loopwright.problems import Problem
from loopwright.seed import set_seed
from loopwright.stages import Stages
from loopwright.trainer import Trainer


@dataclass(frozen=True)
class RunData:
    """Holds the rows of each part as tensors, ready for the model."""

    parts: Mapping[str, tuple[Tensor, Tensor]]
    rows: Tensor
    """The number in the data set of each row of the training part."""

    def to_train(self, trainer: Trainer) -> tuple[Tensor, ...]:
        """Return what this trainer trains on: where it augments, the rows' numbers too."""
        return (
            (*self["train"], self.rows) if isinstance(trainer, AugmentingTrainer) else self["train"]
        )

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        return self.parts[name]

    def get(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return a part, or None where it was not declared."""
        return self.parts.get(name)


def prepare(
    spec: ExperimentSpec,
    source: ConfigSource,
    dataset: Dataset,
    held: ExitStack,
    *,
    stages: Stages | None = None,
    fitted: Fitted | None = None,
    dl_manager: DownloadManager | None = None,
    tracking: Tracking | None = None,
    place: Place | None = None,
) -> tuple[Parts, RunData]:
    """Make the parts of a run, and the rows that they get.

    Args:
        spec: what is declared.
        source: where it stands, for what is told of mistakes.
        dataset: the data set's part.
        held: files for the rows last as long as this.
        stages: times what is done.
        fitted: a trained model, whose preprocessors are used as they are.
        dl_manager: fetches what the data set needs.
        tracking: the tracking's part, where its trackers will be told of the run.
        place: where a run will be kept, where it is to train; what it needs there is looked for
            before the data are read.

    Raises:
        ProblemsError: something cannot be made, or does not fit; every mistake is told at once.
    """
    stages = stages or Stages()
    set_seed(spec.seed)
    parts, problems = make_parts(spec, lambda: dataset.dataset)
    problems += shape_problems(parts, spec)
    problems += tracking.problems() if tracking else []
    if place is not None:
        problems += folder_problems(place.path, resumes=place.resumes)
        problems += disk_problems(place.path, parts, spec)
    raise_problems(problems, source)
    assert parts.source is not None, "a data set that cannot be made is a problem"
    if fitted is not None:
        parts.pipeline = Pipeline(fitted.preprocessors)
    with stages.stage("download_and_prepare_data"):
        parts.source.download_and_prepare(dl_manager)
    data = _read(parts, spec, source, held, stages, fits=fitted is None)
    waits = needs_fitting(parts, spec)
    info = parts.source.features_info
    parts.features = parts.pipeline.described_as(info, data["train"][0])
    if fitted is None:
        with stages.stage("augment_data"):
            problems = add_augmentation(parts, spec.seed)
        if waits:
            problems += add_model(parts, spec)
            problems += disk_problems(place.path, parts, spec) if place else []
        raise_problems(problems, source)
    return parts, data


def _read(
    parts: Parts,
    spec: ExperimentSpec,
    source: ConfigSource,
    held: ExitStack,
    stages: Stages,
    *,
    fits: bool,
) -> RunData:
    assert parts.source is not None
    rows = split_rows(spec, len(parts.source), source)
    encode = label_encoder(parts.labels, one_hot=spec.dataset.one_hot)
    reading = Preparation(parts.source, parts.pipeline, rows, encode, stages.stage, fits=fits)
    try:
        if spec.dataset.chunk_size is None:
            return RunData(reading.in_memory(), rows["train"])
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        aside = held.enter_context(TemporaryDirectory(dir=folder, prefix="chunks-"))
        return RunData(reading.on_disk(Path(aside), spec.dataset.chunk_size), rows["train"])
    except ValueError as error:
        raise_problems([Problem(path=("dataset",), message=first_line(error))], source)
        raise


def split_rows(spec: ExperimentSpec, num_rows: int, source: ConfigSource) -> dict[str, Tensor]:
    """Return the numbers of the rows of each part.

    Raises:
        ProblemsError: there are too few rows for what is declared.
    """
    data = spec.dataset
    try:
        return split_indices(
            num_rows, data.samples.complete(), shuffle=data.shuffle, seed=spec.split_seed
        )
    except ConfigurationError as error:
        problem = Problem(path=("dataset", "samples"), message=first_line(error))
        raise_problems([problem], source)
        raise


@dataclass(frozen=True)
class Preview:
    """Holds some training samples on their way to the model."""

    raw: list[Any]
    prepared: Tensor
    augmented: Tensor
    """[samples, epochs, ...]; as prepared where nothing is augmented."""
    raw_info: Array
    prepared_info: Array


def make_preview(parts: Parts, data: RunData, num_samples: int, num_epochs: int) -> Preview:
    """Return the first training samples as they come, prepared, and augmented by epoch."""
    assert parts.source is not None
    rows, prepared = data.rows[:num_samples], data["train"][0][:num_samples]
    augmented = prepared[:, None].repeat(1, num_epochs, *[1] * (prepared.ndim - 1))
    if parts.augmentation is not None:
        for epoch in range(num_epochs):
            parts.augmentation.epoch.fill_(epoch + 1)
            augmented[:, epoch] = parts.augmentation(prepared, rows)
    raw = [parts.source[row][0] for row in rows.tolist()]
    return Preview(raw, prepared, augmented, parts.source.features_info, parts.features)

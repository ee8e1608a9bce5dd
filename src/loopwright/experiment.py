"""A declared run: which data, which model, how to train it, said in values rather than in code."""

import os
import secrets
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from loopwright.artifact import read_artifact, write_artifact
from loopwright.augmentors import AugmentingTrainer
from loopwright.callbacks import MetricsCallback
from loopwright.components.schedules import build_schedule
from loopwright.config_file import ConfigSource, apply_overrides, read_config_file
from loopwright.datasets import Array, Samples
from loopwright.datasets.downloads import DownloadManager, cache_folder
from loopwright.datasets.splits import split_indices
from loopwright.default_callbacks import MoveModulesToDeviceCallback, TerminateOnNaNCallback
from loopwright.environment import describe_environment
from loopwright.errors import (
    CheckpointError,
    ConfigurationError,
    LoopwrightError,
    NotSupportedError,
)
from loopwright.events import TrainerCallback
from loopwright.experiment_checks import (
    SCHEDULED,
    disk_problems,
    fit_problems,
    folder_problems,
    label_encoder,
    shape_problems,
)
from loopwright.experiment_components import Dataset, Declared, Model, Tracking
from loopwright.experiment_config import (
    ExperimentSpec,
    TrainingSpec,
    find_value,
    raise_problems,
    schema_problems,
)
from loopwright.experiment_parts import (
    Parts,
    add_augmentation,
    add_model,
    first_line,
    make_parts,
    name_tokens,
    needs_fitting,
    part_problems,
    place_files,
)
from loopwright.experiment_tracking import reporting
from loopwright.fitted import Fitted
from loopwright.forensics import Replay, replay
from loopwright.models.estimators import EstimatorModel
from loopwright.plain_values import mask_secrets
from loopwright.preprocessors.pipeline import Pipeline, Preparation, take_rows
from loopwright.problems import Problem, ProblemsError
from loopwright.resuming import EarlierRun, differences, find_run, refuse_changes
from loopwright.run_folder import RunFolder, new_run_path, read_run
from loopwright.run_lock import locked
from loopwright.schedulers import all_of
from loopwright.seed import preserved_random_states, set_seed
from loopwright.stages import Callback, Stages
from loopwright.storage import Mirror, is_url
from loopwright.trainer import Trainer

if TYPE_CHECKING:
    from loopwright.rate_finder import LRFinder

__all__ = [
    "Callback",
    "Dataset",
    "DivergedError",
    "Experiment",
    "Model",
    "NotFittedError",
    "Tracking",
]

_RUNS_FOLDER = "runs"

Part = TypeVar("Part", bound=Declared)


class NotFittedError(LoopwrightError, ValueError):
    """Tells that something needs a trained model and there is none."""


class DivergedError(LoopwrightError, ArithmeticError):
    """Tells that a run ended because its loss became infinite or NaN."""


@dataclass(frozen=True)
class _Data:
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


@dataclass(frozen=True)
class _Place:
    """Says where a run will be."""

    path: Path
    is_own: bool = True
    """Whether that is its folder, or else the one in which it will be made."""
    resumes: bool | None = None
    """Whether an unfinished run may be there; None where what is there is known."""

    @classmethod
    def of(cls, earlier: EarlierRun | None, given: str | None, runs: Path) -> "_Place":
        if earlier is not None:
            return cls(earlier.path, resumes=None if earlier.has_checkpoint else True)
        return cls(Path(given), resumes=False) if given else cls(runs, is_own=False)


@dataclass(frozen=True)
class Preview:
    """Holds some training samples on their way to the model."""

    raw: list[Any]
    prepared: Tensor
    augmented: Tensor
    """[samples, epochs, ...]; as prepared where nothing is augmented."""
    raw_info: Array
    prepared_info: Array


class Experiment:
    """Trains a model that is declared in plain values, and tests it.

    All values are checked here, and every mistake is told at once.

    Args:
        model: a `Model`, or what stands below `model` in a configuration file.
        dataset: a `Dataset`, or what stands below `dataset`.
        tracking: a `Tracking`, or what stands below `tracking`.
        run: what stands below `run`.

    Raises:
        ProblemsError: a key, name, type or range is wrong; a `ValueError`.
    """

    def __init__(
        self,
        model: Model | Mapping[str, Any],
        dataset: Dataset | Mapping[str, Any],
        tracking: Tracking | Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        parts = {"dataset": dataset, "model": model, "tracking": tracking, "run": run}
        given = {key: part for key, part in parts.items() if part is not None}
        components = {key: part for key, part in given.items() if isinstance(part, Declared)}
        values = {k: p.values if isinstance(p, Declared) else p for k, p in given.items()}
        self._take(ConfigSource(values), components)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Experiment":
        """Return the experiment with these values, keyed as in a configuration file."""
        return cls.from_source(ConfigSource(dict(values)))

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Iterable[str] = ()) -> "Experiment":
        """Return the experiment that a YAML file declares.

        Args:
            path: the file; its stem names the run unless `run.name` does.
            overrides: values to set before checking, such as `model.training.epochs=3`.

        Raises:
            ConfigurationError: the file cannot be read, or holds mistakes.
        """
        source = read_config_file(path)
        apply_overrides(source, overrides)
        return cls.from_source(source)

    @classmethod
    def from_source(cls, source: ConfigSource) -> "Experiment":
        """Return the experiment with values that know where they were written."""
        experiment = cls.__new__(cls)
        experiment._take(source)
        return experiment

    def _take(self, source: ConfigSource, components: Mapping[str, Declared] | None = None) -> None:
        spec, problems = schema_problems(source)
        problems += part_problems(source.values)
        raise_problems(problems, source)
        assert spec is not None
        self._source = source
        self.spec: ExperimentSpec = _settle(spec)
        self._components = dict(components or {})
        self._fitted: Fitted | None = None
        self._sample: Samples | None = None
        self.run_folder: Path | None = None
        """The folder of the last training."""
        self._mirror: Mirror | None = None

    @property
    def dataset(self) -> Dataset:
        """The data set's part, as an object."""
        return self._component("dataset", Dataset)

    @property
    def model(self) -> Model:
        """The model's part, as an object; after training its `model` is the trained one."""
        return self._component("model", Model)

    @property
    def tracking(self) -> Tracking:
        """The tracking's part, as an object."""
        return self._component("tracking", Tracking)

    def _component(self, name: str, kind: type[Part]) -> Part:
        if name not in self._components:
            self._components[name] = kind(**getattr(self.spec, name).model_dump(exclude_none=True))
        component = self._components[name]
        assert isinstance(component, kind)
        return component

    @property
    def features_info(self) -> Array:
        """A sample as it comes in: shape and type."""
        return self.dataset.dataset.features_info if self._fitted is None else self._fitted.features

    @property
    def labels_info(self) -> Array:
        """A label: a `ClassLabel` with the names where it is a class."""
        return self.dataset.dataset.labels_info if self._fitted is None else self._fitted.labels

    @property
    def name(self) -> str:
        """Name the run: as declared, else after its file, else after its data set."""
        if self.spec.run.name:
            return self.spec.run.name
        stem = Path(self._source.name).stem if self._source.name.endswith((".yaml", ".yml")) else ""
        text = stem or self.spec.dataset.dataset.type.rpartition(":")[2]
        return "".join(c if c.isalnum() or c in "._-" else "-" for c in text) or "run"

    def to_dict(self) -> dict[str, Any]:
        """Return all values with defaults and seed filled in; `from_dict` takes them back."""
        values: dict[str, Any] = self.spec.model_dump(mode="json", exclude_none=True)
        return values

    def train(
        self,
        trackings_dir: str | os.PathLike[str] | None = None,
        callbacks: Iterable[TrainerCallback | Callback] | None = None,
        verbose: bool = True,
        *,
        resume: bool = False,
        allow_changes: bool = False,
        dl_manager: DownloadManager | None = None,
    ) -> dict[str, Any]:
        """Train the model, tests it, and leaves a run folder with all that was found.

        The random generators of the caller are left as they were.

        Args:
            trackings_dir: where the run folder is made unless `run.folder` names one; by default
                runs/ in the working directory.
            callbacks: for the stages (`Callback`) and for what happens inside the fit
                (`TrainerCallback`), beside those that are declared.
            verbose: whether the begin and end of each stage are logged, by `logging`.
            resume: goes on with the run in `run.folder`, or where none is declared with the newest
                unfinished run of this name below that folder. Without one it starts anew; of a
                complete run it returns the results.
            allow_changes: goes on although the run began with another configuration, and so ends
                with other weights than either alone would give.
            dl_manager: fetches what the data set needs; one that keeps files in the user's cache
                where it is left out.

        Returns:
            `metrics` (the latest of each, those of the test part with the prefix `test_`),
            `history` (the list of all values of each),
            `elapsed` (start, end and duration of each stage), `hardware_info`, the figures of
            results.json, and the `run_folder`.

        Raises:
            ConfigurationError: parts do not fit together, the run folder cannot be written or is
                taken, or the run to go on with began with another configuration; nothing has been
                trained or written.
            RunFolderError: another process trains in the run folder, or it cannot be written now.
            DivergedError: the loss became infinite or NaN.
            RunInterrupted: SIGTERM, SIGHUP or SIGUSR1 ended the training, after saving; for SIGINT
                it is KeyboardInterrupt.
        """
        self._mirror = self._make_mirror(resume=resume)
        runs = Path(trackings_dir if trackings_dir is not None else _RUNS_FOLDER)
        told = list(callbacks or ())
        stages = Stages([each for each in told if isinstance(each, Callback)], verbose=verbose)
        inner = [each for each in told if not isinstance(each, Callback)]
        earlier, changes = self._find_earlier(runs, allow_changes) if resume else (None, False)
        if earlier is not None and earlier.is_complete:
            print(f"The run in {earlier.path} is finished: nothing to resume")
            self.run_folder = earlier.path
            return self._collect(earlier.path, stages)
        threads = _cpu_threads(self.spec.run.threads)
        with preserved_random_states(), threads, stages.whole(), ExitStack() as held:
            if earlier is not None:
                held.enter_context(locked(earlier.path))
            place = _Place.of(earlier, self._given_folder(), runs)
            parts, data = self._prepare(stages, held, dl_manager=dl_manager, place=place)
            raise_problems(fit_problems(parts, self.spec, data["train"]), self._source)
            path = place.path if place.is_own else new_run_path(runs, self.name)
            held.enter_context(locked(path))
            folder = self._open_folder(path, earlier)
            place_files(parts, folder.path)
            name_tokens(parts)
            begun = _Begun(folder, self._values_to_store() if changes else None)
            report = held.enter_context(reporting(self.tracking.trackers, self.spec, folder.path))
            reports = () if report is None else (report,)
            trainer = self._make_trainer(parts, folder, [begun, *inner, *reports])
            with stages.stage("fit_model"), _explaining_misfits(begun):
                self._fit(trainer, data, earlier, allow_changes=allow_changes)
            with stages.stage("evaluate_model"):
                tested = self._test(trainer, data)
            if earlier is not None and earlier.is_trained:
                _log_evaluation(folder, trainer)
            folder.add_metrics(tested)
            if report is not None:
                report.log_metrics(tested, trainer.progress.epochs_done)
            trainer._keeper.finish_copy(trainer)
        results = self._collect(folder.path, stages)
        assert parts.source is not None
        self.model.model = trainer.model
        self._fitted = self._as_fitted(parts, trainer.model, results["metrics"])
        self._sample = parts.source.read(0, min(4, len(parts.source)))[0]
        return results

    def evaluate(self) -> dict[str, float]:
        """Return the figures of the test part, by names that begin with `test_`.

        The rows are those that a training would test on, and the preprocessors stay as fitted.

        Raises:
            NotFittedError: nothing was trained or loaded.
        """
        fitted = self._require_fitted("evaluate")
        threads = _cpu_threads(self.spec.run.threads)
        with preserved_random_states(), threads, ExitStack() as held:
            parts, data = self._prepare(Stages(), held, fitted)
            parts.model = fitted.model
            return self._test(self._make_trainer(parts, None, ()), data)

    def samples(self, part: str) -> Samples:
        """Return the raw features of a part, as the data set holds them.

        Args:
            part: "train", "validation" or "test".

        Raises:
            ValueError: the part is not declared.
        """
        return self._part(part)[0]

    def labels(self, part: str) -> Tensor:
        """Return the labels of a part, as the data set holds them; otherwise as `samples`."""
        return self._part(part)[1]

    def _part(self, part: str) -> tuple[Samples, Tensor]:
        source = self.dataset.dataset
        source.download_and_prepare()
        rows = self._split(len(source), self._split_seed)
        if part not in rows:
            raise ValueError(f"There is no part {part!r}; declared: {', '.join(rows)}.")
        features, labels = source.tensors()
        return take_rows(features, rows[part]), labels[rows[part]]

    def find_rate(self, **options: Any) -> "LRFinder":
        """Search for a learning rate as this experiment would train, and return the finder.

        Nothing is written, and the random generators of the caller are left as they were.

        Args:
            options: those of `loopwright.rate_finder.LogFinder`; where there is a validation part
                with classes the accuracy decides, else the loss.

        Raises:
            ConfigurationError: parts do not fit together.
            ValueError: an option is out of its range, or the loss was never finite.
        """
        from loopwright.rate_finder import LogFinder

        threads = _cpu_threads(self.spec.run.threads)
        with preserved_random_states(), threads, ExitStack() as held:
            parts, data = self._prepare(Stages(), held)
            raise_problems(fit_problems(parts, self.spec, data["train"]), self._source)
            if isinstance(parts.model, EstimatorModel):
                raise NotSupportedError(f"{parts.model.name} has no learning rate to search for.")
            validation = data.get("validation")
            has_classes = validation is not None and parts.predicts_classes
            method = {} if has_classes else {"acc_test": False, "lr_select_method": "min_loss"}
            trainer = self._make_trainer(parts, None, ())
            finder = LogFinder(
                trainer,
                train_dataset=data.to_train(trainer),
                val_dataset=validation,
                batch_size=self.spec.model.training.batch_size,
                **(method | options),
            )
            finder.find()
        return finder

    def replay(self, folder: str | Path, *, device: str | None = None) -> Replay:
        """Run the step again at which a run of this experiment stopped, and find why.

        The random generators of the caller are left as they were.

        Args:
            folder: the folder of the run, or `forensics` in it.
            device: where to run it; by default as declared.

        Raises:
            ConfigurationError: parts do not fit together.
            CheckpointError: there is no such step, it is damaged, or it does not fit.
        """
        run = self.spec.run
        with preserved_random_states(), _cpu_threads(run.threads):
            parts, problems = make_parts(self.spec, lambda: self.dataset.dataset)
            raise_problems(problems, self._source)
            trainer = parts.make_trainer(
                parts.model,
                parts.loss,
                parts.optimizer,
                callbacks=(),
                device=device or run.device,
                precision=run.precision,
            )
            return replay(folder, trainer)

    def preview(self, num_samples: int, num_epochs: int) -> Preview:
        """Return the first training samples as they come, prepared, and augmented by epoch.

        The random generators of the caller are left as they were.

        Raises:
            ConfigurationError: parts do not fit together.
        """
        with preserved_random_states(), ExitStack() as held:
            parts, data = self._prepare(Stages(), held)
        assert parts.source is not None
        rows, prepared = data.rows[:num_samples], data["train"][0][:num_samples]
        augmented = prepared[:, None].repeat(1, num_epochs, *[1] * (prepared.ndim - 1))
        if parts.augmentation is not None:
            for epoch in range(num_epochs):
                parts.augmentation.epoch.fill_(epoch + 1)
                augmented[:, epoch] = parts.augmentation(prepared, rows)
        raw = [parts.source[row][0] for row in rows.tolist()]
        return Preview(raw, prepared, augmented, parts.source.features_info, parts.features)

    def predict(self, X: Any, batch_size: int | None = None) -> np.ndarray:
        """Return predictions for raw samples (see `Fitted.predict`).

        Raises:
            NotFittedError: nothing was trained or loaded.
            NotSupportedError: a model of this objective has no prediction for a sample.
        """
        return self._require_fitted("predict").predict(X, batch_size)

    @property
    def inferrer(self) -> Any:
        """What uses the trained model: an `Inferrer`, for an objective of its own kind.

        Raises:
            NotFittedError: nothing was trained or loaded.
            NotSupportedError: there is none for this objective.
        """
        return self._require_fitted("inferrer").inferrer

    def predict_proba(self, X: Any, batch_size: int | None = None) -> np.ndarray:
        """Return probabilities of classes for raw samples (see `Fitted.predict_proba`).

        Raises:
            NotFittedError: nothing was trained or loaded.
            NotImplementedError: the model gives no probabilities.
        """
        return self._require_fitted("predict_proba").predict_proba(X, batch_size)

    def save(self, path: str | os.PathLike[str], *, licence: str | None = None) -> None:
        """Write all that predicts to one zip of JSON and safetensors.

        Args:
            path: the file; it appears whole or not at all.
            licence: of the weights, for the model card in it.

        Raises:
            NotFittedError: nothing was trained or loaded.
            NotSupportedError: a model of this objective has no prediction for a sample.
        """
        fitted = self._require_fitted("save")
        assert self._sample is not None
        spec = mask_secrets(self.to_dict())
        spec["tracking"]["trackers"] = []  # of this training, and perhaps code of its own
        write_artifact(path, fitted, spec, self._sample, licence=licence)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        trusted: Collection[str] = (),
        device: str | None = None,
    ) -> "Experiment":
        """Return the experiment that `save` wrote: it predicts the same values.

        Nothing in the file is executed, and no data set is read.

        Args:
            path: the file.
            trusted: exact paths (`package.module:Name`) of parts whose code may be imported.
            device: where it predicts.

        Raises:
            ArtifactError: the file is damaged or hostile, or names code that is not trusted.
        """
        artifact = read_artifact(path, trusted=trusted)
        experiment = cls.from_dict(artifact.spec)
        experiment._fitted = replace(artifact.fitted, device=device)
        experiment._sample = artifact.sample
        experiment.model.model = artifact.fitted.model
        return experiment

    def _require_fitted(self, method: str) -> Fitted:
        if self._fitted is None:
            raise NotFittedError(
                f"Experiment.{method} needs a trained model. Call train, or Experiment.load(path)."
            )
        return self._fitted

    def _as_fitted(self, parts: Parts, model: nn.Module, metrics: Mapping[str, float]) -> Fitted:
        training = self.spec.model.training
        assert parts.source is not None
        return Fitted(
            model,
            parts.source.features_info,
            parts.labels,
            list(parts.pipeline.steps),
            loss=parts.loss_name,
            objective=training.objective.type if training.objective else "",
            batch_size=training.batch_size,
            device=self.spec.run.device,
            metrics=metrics,
        )

    def _prepare(
        self,
        stages: Stages,
        held: ExitStack,
        fitted: Fitted | None = None,
        dl_manager: DownloadManager | None = None,
        place: _Place | None = None,
    ) -> tuple[Parts, _Data]:
        """Make the parts, and the rows that they get; files for those last as long as `held`.

        With the place of a run to train, what it needs there is looked for first.
        """
        set_seed(_seed_of(self.spec))
        parts, problems = make_parts(self.spec, lambda: self.dataset.dataset)
        problems += shape_problems(parts, self.spec)
        if place is not None:
            problems += self._tracker_problems()
            problems += folder_problems(place.path, resumes=place.resumes)
            problems += disk_problems(place.path, parts, self.spec)
        raise_problems(problems, self._source)
        assert parts.source is not None, "a data set that cannot be made is a problem"
        if fitted is not None:
            parts.pipeline = Pipeline(fitted.preprocessors)
        with stages.stage("download_and_prepare_data"):
            parts.source.download_and_prepare(dl_manager)
        data = self._prepare_data(parts, stages, held, fits=fitted is None)
        waits = needs_fitting(parts, self.spec)
        info = parts.source.features_info
        parts.features = parts.pipeline.described_as(info, data["train"][0])
        if fitted is None:
            with stages.stage("augment_data"):
                problems = add_augmentation(parts, _seed_of(self.spec))
            if waits:
                problems += add_model(parts, self.spec)
                problems += disk_problems(place.path, parts, self.spec) if place else []
            raise_problems(problems, self._source)
        return parts, data

    def _tracker_problems(self) -> list[Problem]:
        try:
            _ = self.tracking.trackers
        except ProblemsError as error:
            return list(error.problems)
        return []

    def _make_mirror(self, *, resume: bool) -> Mirror | None:
        """Return what keeps a copy at `run.folder` where that is a URL; a copy that is further
        than the folder here is fetched first, to go on with."""
        url = self.spec.run.folder
        if not is_url(url):
            return None
        mirror = Mirror(str(url))
        if resume:
            mirror.pull()
        return mirror

    def _given_folder(self) -> str | None:
        return self.spec.run.folder if self._mirror is None else str(self._mirror.folder)

    def _find_earlier(self, runs: Path, allow_changes: bool) -> tuple[EarlierRun | None, bool]:
        """Return the run to go on with, and whether it began with another configuration.

        What is drawn anew for each experiment is taken from the run.
        """
        folder = self._given_folder()
        earlier = find_run(self.name, folder, runs)
        if earlier is None:
            where = folder or f"{runs}/ under the name {self.name}"
            print(f"Nothing to resume in {where}: starting anew")
            return None, False
        if not (earlier.has_checkpoint or earlier.is_complete):
            return earlier, False  # the trainer says that it starts anew
        then = earlier.config()
        self.spec = _take_filled_in(self.spec, then, self._source.values)
        changes = differences(then, self.to_dict())
        refuse_changes(earlier, changes, allow_changes=allow_changes)
        return earlier, bool(changes)

    def _prepare_data(self, parts: Parts, stages: Stages, held: ExitStack, *, fits: bool) -> _Data:
        spec = self.spec.dataset
        assert parts.source is not None
        rows = self._split(len(parts.source), self._split_seed)
        encode = label_encoder(parts.labels, one_hot=spec.one_hot)
        prepare = Preparation(parts.source, parts.pipeline, rows, encode, stages.stage, fits=fits)
        try:
            if spec.chunk_size is None:
                return _Data(prepare.in_memory(), rows["train"])
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            aside = held.enter_context(TemporaryDirectory(dir=folder, prefix="chunks-"))
            return _Data(prepare.on_disk(Path(aside), spec.chunk_size), rows["train"])
        except ValueError as error:
            raise_problems([Problem(path=("dataset",), message=first_line(error))], self._source)
            raise

    @property
    def _split_seed(self) -> int:
        seed = self.spec.dataset.seed
        return _seed_of(self.spec) if seed is None else seed

    def _split(self, num_rows: int, seed: int) -> dict[str, Tensor]:
        spec = self.spec.dataset
        try:
            return split_indices(num_rows, spec.samples.complete(), shuffle=spec.shuffle, seed=seed)
        except ConfigurationError as error:
            problem = Problem(path=("dataset", "samples"), message=first_line(error))
            raise_problems([problem], self._source)
            raise

    def _open_folder(self, path: Path, earlier: EarlierRun | None) -> RunFolder:
        if earlier is not None and earlier.has_checkpoint:
            folder = RunFolder.reopen(path)
        else:
            folder = RunFolder(path, resume=earlier is not None)
        if earlier is None or not earlier.has_checkpoint:
            folder.write_config(self._values_to_store())
        self.run_folder = folder.path
        return folder

    def _values_to_store(self) -> dict[str, Any]:
        values = self.to_dict()
        values["run"].pop("folder", None)  # another run of this file wants a folder of its own
        return values

    def _make_trainer(
        self, parts: Parts, folder: RunFolder | None, callbacks: Iterable[TrainerCallback]
    ) -> Trainer:
        run = self.spec.run
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
            seed=_seed_of(self.spec),
            run_dir=(self._mirror or folder.path) if folder else None,
            checkpoint=run.checkpoint.policy() if run.checkpoint and folder else None,
        )

    def _fit(
        self, trainer: Trainer, data: _Data, earlier: EarlierRun | None, *, allow_changes: bool
    ) -> None:
        training = self.spec.model.training
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
            resume=None if earlier is None else "latest",
            allow_changes=allow_changes,
        )
        _raise_if_not_finite(trainer)

    def _test(self, trainer: Trainer, data: _Data) -> dict[str, float]:
        """Return the figures of the test part, by names that begin with `test_`."""
        trainer.evaluate(data["test"], per_device_batch_size=self.spec.model.training.batch_size)
        _raise_if_not_finite(trainer)
        history = trainer.run_history
        return {
            _test_name(name): float(history.get_latest_metric(name))
            for name in sorted(history.get_metric_names())
        }

    def _collect(self, folder: Path, stages: Stages) -> dict[str, Any]:
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


class _Begun(TrainerCallback):
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
def _explaining_misfits(begun: _Begun) -> Iterator[None]:
    """Tell a checkpoint that does not fit, before anything is trained, as a mistake in values."""
    try:
        yield
    except CheckpointError as error:
        if begun.happened:
            raise
        raise ConfigurationError(str(error)) from error


def _schedules(training: TrainingSpec) -> Callable[[Optimizer], Any] | None:
    """Return what makes the declared schedules for the optimizer; None without any."""
    declared = {field: getattr(training, key) for key, field in SCHEDULED.items()}
    made = [
        build_schedule(part.type, part.arguments, field=field)
        for field, part in declared.items()
        if part is not None
    ]
    return made[0] if len(made) == 1 else all_of(*made) if made else None


def _log_evaluation(folder: RunFolder, trainer: Trainer) -> None:
    """Log a test that comes after a program that trained and did not get to test."""
    run, history = read_run(folder.path), trainer.run_history
    if any(row.event == "evaluation" for row in run.metrics):
        return
    metrics = {name: history.get_latest_metric(name) for name in history.get_metric_names()}
    folder.log(run.results["epochs"], run.results["steps"], metrics, event="evaluation")


@contextmanager
def _cpu_threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settle(spec: ExperimentSpec) -> ExperimentSpec:
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


def _take_filled_in(
    spec: ExperimentSpec, then: Mapping[str, Any], declared: Mapping[str, Any]
) -> ExperimentSpec:
    """Return the spec with seed, mode and id of an earlier run, where they are not declared now."""
    for part, name in (("run", "seed"), ("run", "step_mode"), ("tracking", "run_id")):
        filled = find_value(then, (part, name))
        if filled is not None and find_value(declared, (part, name)) is None:
            changed = getattr(spec, part).model_copy(update={name: filled})
            spec = spec.model_copy(update={part: changed})
    return spec


def _seed_of(spec: ExperimentSpec) -> int:
    assert spec.run.seed is not None, "_settle fills it in"
    return spec.run.seed


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

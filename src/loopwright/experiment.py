"""A declared run: which data, which model, how to train it, said in values rather than in code."""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch import Tensor

from loopwright.artifact import read_artifact, write_artifact
from loopwright.config_file import ConfigSource, apply_overrides, read_config_file
from loopwright.datasets import Array, Samples
from loopwright.datasets.downloads import DownloadManager
from loopwright.device import cpu_threads
from loopwright.errors import DivergedError, NotFittedError, NotSupportedError
from loopwright.events import TrainerCallback
from loopwright.experiment_checks import fit_problems
from loopwright.experiment_components import Dataset, Declared, Model, Tracking
from loopwright.experiment_config import ExperimentSpec, raise_problems, schema_problems, settle
from loopwright.experiment_parts import make_parts, name_tokens, part_problems, place_files
from loopwright.experiment_place import Place, make_mirror, open_folder
from loopwright.experiment_preparation import Preview, make_preview, prepare, split_rows
from loopwright.experiment_run import (
    Begun,
    as_fitted,
    collect,
    explaining_misfits,
    fit,
    log_evaluation,
    make_trainer,
    measure,
)
from loopwright.experiment_tracking import reporting
from loopwright.fitted import Fitted
from loopwright.forensics import Replay, replay
from loopwright.models.estimators import EstimatorModel
from loopwright.plain_values import mask_secrets
from loopwright.preprocessors.pipeline import take_rows
from loopwright.resuming import (
    EarlierRun,
    differences,
    find_run,
    refuse_changes,
    take_filled_in,
)
from loopwright.run_folder import new_run_path
from loopwright.run_lock import locked
from loopwright.seed import preserved_random_states
from loopwright.stages import Callback, Stages

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
        self.spec: ExperimentSpec = settle(spec)
        self._components = dict(components or {})
        self._fitted: Fitted | None = None
        self._sample: Samples | None = None
        self.run_folder: Path | None = None
        """The folder of the last training."""

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
        mirror = make_mirror(self.spec.run.folder, resume=resume)
        given = self.spec.run.folder if mirror is None else str(mirror.folder)
        runs = Path(trackings_dir if trackings_dir is not None else _RUNS_FOLDER)
        told = list(callbacks or ())
        stages = Stages([each for each in told if isinstance(each, Callback)], verbose=verbose)
        inner = [each for each in told if not isinstance(each, Callback)]
        earlier, changes = (
            self._find_earlier(given, runs, allow_changes) if resume else (None, False)
        )
        if earlier is not None and earlier.is_complete:
            print(f"The run in {earlier.path} is finished: nothing to resume")
            self.run_folder = earlier.path
            return collect(earlier.path, stages)
        threads = cpu_threads(self.spec.run.threads)
        with preserved_random_states(), threads, stages.whole(), ExitStack() as held:
            if earlier is not None:
                held.enter_context(locked(earlier.path))
            place = Place.of(earlier, given, runs)
            parts, data = prepare(
                self.spec,
                self._source,
                self.dataset,
                held,
                stages=stages,
                dl_manager=dl_manager,
                tracking=self.tracking,
                place=place,
            )
            raise_problems(fit_problems(parts, self.spec, data["train"]), self._source)
            path = place.path if place.is_own else new_run_path(runs, self.name)
            held.enter_context(locked(path))
            folder = open_folder(path, earlier, self._values_to_store())
            self.run_folder = folder.path
            place_files(parts, folder.path)
            name_tokens(parts)
            begun = Begun(folder, self._values_to_store() if changes else None)
            report = held.enter_context(reporting(self.tracking.trackers, self.spec, folder.path))
            reports = () if report is None else (report,)
            trainer = make_trainer(
                parts, self.spec, [begun, *inner, *reports], run_dir=mirror or folder.path
            )
            training, resumes = self.spec.model.training, earlier is not None
            with stages.stage("fit_model"), explaining_misfits(begun):
                fit(trainer, data, training, resume=resumes, allow_changes=allow_changes)
            with stages.stage("evaluate_model"):
                tested = measure(trainer, data, training.batch_size)
            if earlier is not None and earlier.is_trained:
                log_evaluation(folder, trainer)
            folder.add_metrics(tested)
            if report is not None:
                report.log_metrics(tested, trainer.progress.epochs_done)
            trainer._keeper.finish_copy(trainer)
        results = collect(folder.path, stages)
        assert parts.source is not None
        self.model.model = trainer.model
        self._fitted = as_fitted(parts, self.spec, trainer.model, results["metrics"])
        self._sample = parts.source.read(0, min(4, len(parts.source)))[0]
        return results

    def evaluate(self) -> dict[str, float]:
        """Return the figures of the test part, by names that begin with `test_`.

        The rows are those that a training would test on, and the preprocessors stay as fitted.

        Raises:
            NotFittedError: nothing was trained or loaded.
        """
        fitted = self._require_fitted("evaluate")
        threads = cpu_threads(self.spec.run.threads)
        with preserved_random_states(), threads, ExitStack() as held:
            parts, data = prepare(self.spec, self._source, self.dataset, held, fitted=fitted)
            parts.model = fitted.model
            trainer = make_trainer(parts, self.spec)
            return measure(trainer, data, self.spec.model.training.batch_size)

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
        rows = split_rows(self.spec, len(source), self._source)
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

        threads = cpu_threads(self.spec.run.threads)
        with preserved_random_states(), threads, ExitStack() as held:
            parts, data = prepare(self.spec, self._source, self.dataset, held)
            raise_problems(fit_problems(parts, self.spec, data["train"]), self._source)
            if isinstance(parts.model, EstimatorModel):
                raise NotSupportedError(f"{parts.model.name} has no learning rate to search for.")
            validation = data.get("validation")
            has_classes = validation is not None and parts.predicts_classes
            method = {} if has_classes else {"acc_test": False, "lr_select_method": "min_loss"}
            trainer = make_trainer(parts, self.spec)
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
        with preserved_random_states(), cpu_threads(run.threads):
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
            parts, data = prepare(self.spec, self._source, self.dataset, held)
        return make_preview(parts, data, num_samples, num_epochs)

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

    def _find_earlier(
        self, folder: str | None, runs: Path, allow_changes: bool
    ) -> tuple[EarlierRun | None, bool]:
        """Return the run to go on with, and whether it began with another configuration.

        What is drawn anew for each experiment is taken from the run.
        """
        earlier = find_run(self.name, folder, runs)
        if earlier is None:
            where = folder or f"{runs}/ under the name {self.name}"
            print(f"Nothing to resume in {where}: starting anew")
            return None, False
        if not (earlier.has_checkpoint or earlier.is_complete):
            return earlier, False  # the trainer says that it starts anew
        then = earlier.config()
        self.spec = take_filled_in(self.spec, then, self._source.values)
        changes = differences(then, self.to_dict())
        refuse_changes(earlier, changes, allow_changes=allow_changes)
        return earlier, bool(changes)

    def _values_to_store(self) -> dict[str, Any]:
        values = self.to_dict()
        values["run"].pop("folder", None)  # another run of this file wants a folder of its own
        return values

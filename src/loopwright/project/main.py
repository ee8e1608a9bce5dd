"""The entry of a project: it trains, tests, and evaluates the model that is in use today."""

import inspect
import logging
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from loopwright.errors import ConfigurationError, RunInterrupted, SealedTestSetError
from loopwright.project.data import Data, read_samples
from loopwright.project.metrics import RESAMPLED, MetricSet
from loopwright.project.module import Model
from loopwright.project.preparation import DatasetPreparation
from loopwright.project.records import find_data, hash_file, read_record, write_record
from loopwright.project.settings import complete_config
from loopwright.project.testing import Test
from loopwright.project.training import Train
from loopwright.run_folder import read_run
from loopwright.run_record import is_run_folder
from loopwright.sealed import Seal
from loopwright.seed import preserved_random_states, set_seed

_logger = logging.getLogger(__name__)

RUNS = "training_output"

EXIT_FAILED = 1
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130


class Main:
    """Runs what a project does: training, test, and evaluation of an existing model.

    A subclass names the project's classes, and implements `existing_model`.

    Args:
        cfg: the dicts `model_config`, `trainer_config`, `dataset_config` and `metrics`.
        training_path: the file of the training set.
        validation_path: the file of the validation set.
        test_dataset_path: the file of the test set.
        force_dataset_split: divide the data set although there are paths.
        dataset_path: the data set to divide where there are no paths; by default
            `dataset_config["dataset_path"]`, else the data that the project carries with it.
        force_save_path: the folder of the runs; by default `trainer_config["default_root_dir"]`,
            else training_output beside the file of the subclass.

    Raises:
        ConfigurationError: a name in `cfg` is unknown, or there are no data at all.
    """

    model_class: ClassVar[type[Model]] = Model
    data_class: ClassVar[type[Data]] = Data
    train_class: ClassVar[type[Train]] = Train
    test_class: ClassVar[type[Test]] = Test
    preparation_class: ClassVar[type[DatasetPreparation]] = DatasetPreparation

    def __init__(
        self,
        cfg: Mapping[str, Mapping[str, Any]],
        training_path: str | Path | None = None,
        validation_path: str | Path | None = None,
        test_dataset_path: str | Path | None = None,
        force_dataset_split: bool = False,
        *,
        dataset_path: str | Path | None = None,
        force_save_path: str | Path | None = None,
    ) -> None:
        self.config = config = complete_config(cfg, self.train_class.trainer_keys)
        self.model_config, self.trainer_config = config["model_config"], config["trainer_config"]
        self.dataset_config, self.metrics_config = config["dataset_config"], config["metrics"]
        self.training_path, self.validation_path = training_path, validation_path
        self.test_dataset_path = test_dataset_path
        self.dataset_path = dataset_path or self.dataset_config["dataset_path"]
        beside = Path(inspect.getfile(type(self))).parent / RUNS
        root = self.trainer_config.get("default_root_dir")
        self.runs = self._divided_in = Path(force_save_path or root or beside)
        self.save_path: Path | None = None
        """The folder of the last run or test."""
        self.results: MetricSet | None = None
        """Targets and predictions of the last test or evaluation."""
        given = (training_path, validation_path, test_dataset_path)
        self._divides = force_dataset_split or all(path is None for path in given)
        if self._divides:
            self.split()

    def split(self) -> None:
        """Divide the data set into files for training, validation and test, and use these.

        Raises:
            ConfigurationError: the test set is to be sealed and not to be kept.
        """
        folder = self.runs
        if not self.dataset_config["save_dataset"]:
            if self.dataset_config["seal_test_set"]:
                raise ConfigurationError(
                    "dataset_config has seal_test_set, and save_dataset is False: the seal would "
                    "go with the test set, and no evaluation be counted. Set save_dataset to True, "
                    "give the paths of the three sets, or set seal_test_set to False."
                )
            folder = Path(tempfile.mkdtemp(prefix="dataset-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._divided_in = folder
        preparation = self.preparation_class(
            dataset_path=self.dataset_path,
            save_datasets=self.dataset_config["save_dataset"],
            save_path=folder,
            dataset_config={"seed": self.model_config["seed"], **self.dataset_config},
        )
        paths = preparation.prepare_datasets()
        self.training_path, self.validation_path, self.test_dataset_path = paths

    def prepare_datasets(self) -> None:
        """Divide the data set; another name of `split`."""
        self.split()

    def execute_trainer(self, *, resume: bool = False) -> Path | None:
        """Train, and return the file of the best model (the last one where none is the best).

        Args:
            resume: go on with the newest run that did not finish; without one, start anew.

        Raises:
            ConfigurationError: there is no training or no validation set.
            SealedTestSetError: samples of the sealed test set are in the training or validation
                set. Nothing was trained.
            RunInterrupted: a signal ended the run, which saved and can be resumed.
        """
        if self.training_path is None or self.validation_path is None:
            raise ConfigurationError(
                f"Training needs a training and a validation set; training_path is "
                f"{self.training_path} and validation_path {self.validation_path}. Give both, or "
                "no path at all to have the data set divided."
            )
        self._check_seal(self.training_path, self.validation_path)
        with preserved_random_states():
            set_seed(self.model_config["seed"])
            unfinished = self._unfinished() if resume else None
            self.save_path = unfinished or self._new_run()
            model = self.model_class(
                self.model_config, self.metrics_config, self.trainer_config, self.save_path
            )
            data = self._load_data(model, self.training_path, self.validation_path)
            train = self.train_class(
                trainer_config={**self.trainer_config, "default_root_dir": self.save_path},
                model_config=self.model_config,
                train_dataset=data.dataset_train,
                validation_dataset=data.dataset_validation,
                model=model.get_model(),
                data_module=data.get_data_module(),
                save_path=self.save_path,
                metrics_config=self.metrics_config,
            )
            train.resume = "latest" if unfinished is not None else None
            train.execute()
            models = train.save_models()
        data_files = {
            "training": self.training_path,
            "validation": self.validation_path,
            "test": self.test_dataset_path,
        }
        keeps_data = self.dataset_config["save_dataset"]
        write_record(self.save_path, models, self.config, data_files, keeps_data=keeps_data)
        best = models.get("best", models.get("last"))
        return None if best is None else self.save_path / best

    def execute_test(self, model_path: str | Path | None = None) -> dict[str, Any]:
        """Test a model on the test set, and return the metrics that are switched on.

        A picture and a report go to the folder of the run that the model is from, else to a new
        one. A model of a run is tested on the test set of that run, unless a path is given.

        Args:
            model_path: the file of the model; the best of the newest run where it is None.

        Raises:
            ConfigurationError: there is no test set, or no model, or the newest run kept none; or
                the data of the run are not found.
            SealedTestSetError: the model was trained on samples of the sealed test set, or its
                training data have changed since.
        """
        model_path = self._newest_model() if model_path is None else Path(model_path)
        run = next((path for path in model_path.parents if is_run_folder(path)), None)
        self.save_path = folder = run or self._new_run()
        record = read_record(self.save_path)
        if self._divides and record.get("test"):
            self.test_dataset_path = find_data(folder, "test", self._divided_in)
        test_path = self._require_test()
        trained_on = {
            name: find_data(folder, name, self._divided_in)
            for name in record.get("trained_on", {})
            if self.dataset_config["seal_test_set"]
        }
        seal = self._check_seal(*trained_on.values())
        if seal is not None and not trained_on:
            print(
                f"What {model_path} was trained on is not known: the sealed test set may be part."
            )
        for name, path in trained_on.items():
            if record["sha256"][name] != hash_file(path):
                raise SealedTestSetError(
                    f"{path} has changed since {self.save_path} was trained on it, so it cannot be "
                    "told whether that was trained on the sealed test set. Put the file back as it "
                    "was; dataset.zip in the folder of the run holds it."
                )
        test = self.test_class(
            model_path=model_path,
            test_dataset_path=test_path,
            trainer_config=self.trainer_config,
            model_config=self.model_config,
            metrics_config=self.metrics_config,
            save_path=self.save_path,
        )
        results = test.execute_test()
        self.results = test.metrics
        more: dict[str, Any] = {}
        if seal is not None:
            name = f"{self.save_path.name}/{model_path.name}"
            more["sealed_test_set"] = line = seal.count(name, results)
            print(line)
        test.metrics.write_report(self.save_path, "test", **more)
        return results

    def execute_eval(self) -> dict[str, Any] | None:
        """Return the results of the existing model on the test set; None where that fails.

        What failed is logged with its traceback (D-71).
        """
        try:
            features, targets = read_samples(self._require_test())
            train = None if self.training_path is None else read_samples(self.training_path)
            self.results = self._measured(targets, self.existing_model(train, features))
            return self.results.compute()
        except Exception:
            _logger.exception("The existing model could not be evaluated")
            return None

    def existing_model(self, train: tuple[Any, np.ndarray] | None, features: Any) -> Any:
        """Return the predictions of the model that is in use today.

        Args:
            train: features and targets of the training set; None where there are none.
            features: those of the test set: an array [samples, ...], or a list of texts.

        Returns:
            An array or tensor [samples, ...]: classes, or numbers.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no existing_model. Implement it: return the predictions "
            "that the trained model is compared with."
        )

    def _measured(self, targets: Any, predictions: Any) -> MetricSet:
        metrics = MetricSet(self.metrics_config, self.model_config)
        metrics.update(torch.as_tensor(targets), torch.as_tensor(predictions))
        return metrics

    def _load_data(self, model: Model, training: str | Path, validation: str | Path) -> Data:
        return self.data_class(
            self.model_config,
            load_datasets=True,
            training_path=training,
            validation_path=validation,
            test_dataset_path=self.test_dataset_path,
            tokenizer=model.get_tokenizer(),
        )

    def _require_test(self) -> Path:
        if self.test_dataset_path is None:
            raise ConfigurationError(
                "There is no test set; test_dataset_path is None. Give it, or no path at all to "
                "have the data set divided."
            )
        return Path(self.test_dataset_path)

    def _check_seal(self, *trained_on: str | Path) -> Seal | None:
        """Refuse files of samples that hold some of the sealed test set; None without a seal."""
        if not self.dataset_config["seal_test_set"] or self.test_dataset_path is None:
            return None
        path = Path(self.test_dataset_path)
        seal = Seal(path.with_suffix(".seal.json"), *read_samples(path))
        for each in trained_on:
            seal.check(read_samples(each)[0], str(each))
        return seal

    def _new_run(self) -> Path:
        """Make the folder of the next run: v1, v2, ..."""
        self.runs.mkdir(parents=True, exist_ok=True)
        number = max(self._numbers(), default=0) + 1
        while True:
            try:
                path = self.runs / f"v{number}"
                path.mkdir(mode=0o700)
                return path
            except FileExistsError:  # another process was faster
                number += 1

    def _numbers(self) -> list[int]:
        names = [path.name for path in self.runs.glob("v*") if path.is_dir()]
        return sorted(int(name[1:]) for name in names if name[1:].isdecimal())

    def _unfinished(self) -> Path | None:
        for number in reversed(self._numbers()):
            path = self.runs / f"v{number}"
            if is_run_folder(path) and read_run(path).status.get("status") != "finished":
                return path
        return None

    def _newest_model(self) -> Path:
        for number in reversed(self._numbers()):
            path = self.runs / f"v{number}"
            record = read_record(path)
            models = record.get("models", {})
            if found := models.get("best", models.get("last")):
                return path / str(found)
            if record:
                raise ConfigurationError(
                    f"The newest run {path} kept no model. Give model_path for one of an older "
                    "run; to keep models set enable_checkpointing or save_last_model."
                )
        raise ConfigurationError(f"{self.runs} holds no model. Train first, or give model_path.")


def rows_of(tested: Main, evaluated: Main) -> dict[str, Any]:
    """Return what a `Comparison` needs for intervals: the rows of both, and the metrics of them.

    Args:
        tested: has run `execute_test`.
        evaluated: has run `execute_eval` on the same test set; nothing is returned where it failed.

    Raises:
        ConfigurationError: they were run on different test sets.
    """
    if tested.results is None or evaluated.results is None:
        return {}
    targets = tested.results.targets
    if not np.array_equal(targets, evaluated.results.targets.astype(targets.dtype)):
        raise ConfigurationError(
            f"The models were measured on different targets: the trained one on those of "
            f"{tested.test_dataset_path}, the existing one on those of "
            f"{evaluated.test_dataset_path}. Give both the same test_dataset_path, and leave the "
            "order of its samples as it is."
        )
    rows = targets, tested.results.predictions, evaluated.results.predictions
    functions = tested.results.functions().items()
    return {"rows": rows, "metrics": {name: f for name, f in functions if name in RESAMPLED}}


def run(main: Callable[[], int]) -> None:
    """Run a project's `main` and end the program: with what it returns, or what went wrong.

    The exit code is 1 for an error, whose traceback is logged, 75 for a run that a signal ended and
    that can be resumed, and 130 for one that Ctrl-C ended.
    """
    try:
        code = main()
    except RunInterrupted as error:
        print(error, file=sys.stderr)
        code = EXIT_RESUMABLE
    except KeyboardInterrupt as error:
        print(f"Interrupted: {error}", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except Exception:
        _logger.exception("The run failed")
        code = EXIT_FAILED
    sys.exit(code)

"""Callbacks that change the training history, or write it into the folder of the experiment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopwright.experiment_folder import ExperimentFolder
from loopwright.loop_callbacks.base import AbstractCallback, AbstractExperimentCallback
from loopwright.loop_callbacks.messages import MessageHandling
from loopwright.tracking.history_reports import (
    PLOT_FORMATS,
    TEXT_FORMATS,
    TrainingHistoryPlotter,
    TrainingHistoryWriter,
    check_format,
)
from loopwright.tracking.uploads import Uploader


class TrainHistoryFormatter(AbstractCallback):
    """Puts a changed form of a metric into the training history.

    Args:
        input_metric_getter: Called with the history; returns the list of the metric's values.
        output_metric_setter: Called with that list; returns a name and a value to record.
        epoch_end: Whether it runs after each epoch.
        train_end: Whether it runs after training; one of both has to be chosen.
        strict_metric_extract: Whether a metric without a new value raises rather than prints so.
    """

    def __init__(
        self,
        input_metric_getter: Callable[[Any], list[Any]],
        output_metric_setter: Callable[[list[Any]], tuple[str, Any]],
        epoch_end: bool = True,
        train_end: bool = False,
        strict_metric_extract: bool = True,
    ) -> None:
        if epoch_end == train_end:
            raise ValueError(
                f"epoch_end and train_end are both {epoch_end}; set one of them to True."
            )
        super().__init__("Formatter of the training history")
        self.input_metric_getter = input_metric_getter
        self.output_metric_setter = output_metric_setter
        self.epoch_end = epoch_end
        self.train_end = train_end
        self.strict_metric_extract = strict_metric_extract
        self._num_seen = 0

    def on_epoch_end(self) -> None:
        if self.epoch_end:
            self.format_history()

    def on_train_end(self) -> None:
        if self.train_end:
            self.format_history()

    def format_history(self) -> None:
        """Record the changed form, if the metric has a new value.

        Raises:
            ValueError: It has none, and `strict_metric_extract` is set.
        """
        values = self.input_metric_getter(self.train_loop_obj.train_history)
        if len(values) <= self._num_seen:
            message = (
                f"{type(self).__name__}: the metric has {len(values)} values and no new one. Put "
                "the callback that evaluates it before this one."
            )
            if self.strict_metric_extract:
                raise ValueError(message)
            print(message)
            return
        self._num_seen = len(values)
        name, value = self.output_metric_setter(values)
        self.train_loop_obj.insert_metric_result_into_history(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Return how many values were seen, for checkpoints."""
        return {"num_seen": self._num_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the values that `state_dict` counted."""
        self._num_seen = state["num_seen"]


class MetricHistoryRename(TrainHistoryFormatter):
    """Records a metric under a second name.

    Args:
        input_metric_path: The metric's name, or a function as in `TrainHistoryFormatter`.
        new_metric_name: The second name.
        epoch_end: As in `TrainHistoryFormatter`.
        train_end: Likewise.
        strict_metric_extract: Likewise.
    """

    def __init__(
        self,
        input_metric_path: str | Callable[[Any], list[Any]],
        new_metric_name: str,
        epoch_end: bool = True,
        train_end: bool = False,
        strict_metric_extract: bool = True,
    ) -> None:
        super().__init__(
            input_metric_path if callable(input_metric_path) else lambda h: h[input_metric_path],
            lambda values: (new_metric_name, values[-1]),
            epoch_end,
            train_end,
            strict_metric_extract,
        )


class ModelTrainHistoryBaseCB(AbstractExperimentCallback):
    """Is the base of callbacks that write the training history into `results/`.

    Args:
        callback_name: A name to show.
        execution_order: As in `AbstractCallback`.
        epoch_end: Whether it writes after each epoch.
        train_end: Whether it writes after training, with `train_end_` before the name.
        file_format: The format of the files.
        project_name: None takes the loop's; so do the next five.
        experiment_name: The name of the experiment.
        local_model_result_folder_path: The root of all projects.
        cloud_save_mode: Where else to save.
        bucket_name: The bucket there.
        cloud_dir_prefix: The folder inside the bucket.
    """

    def __init__(
        self,
        callback_name: str,
        execution_order: int = 0,
        epoch_end: bool = True,
        train_end: bool = False,
        file_format: str = "",
        project_name: str | None = None,
        experiment_name: str | None = None,
        local_model_result_folder_path: str | os.PathLike[str] | None = None,
        cloud_save_mode: str | None = None,
        bucket_name: str | None = None,
        cloud_dir_prefix: str | None = None,
    ) -> None:
        if not epoch_end and not train_end:
            raise ValueError("epoch_end and train_end are both False, so nothing would be written.")
        super().__init__(
            callback_name,
            project_name,
            experiment_name,
            local_model_result_folder_path,
            cloud_save_mode,
            bucket_name,
            cloud_dir_prefix,
            execution_order=execution_order,
            device_idx_execution=0,
        )
        self.epoch_end = epoch_end
        self.train_end = train_end
        self.file_format = file_format
        self.uploader: Uploader | None = None

    def on_train_loop_registration(self) -> None:
        self.try_infer_experiment_details(infer_cloud_details=True)
        self.uploader = self.make_uploader()

    def on_epoch_end(self) -> None:
        if self.epoch_end:
            self.write("")

    def on_train_end(self) -> None:
        if self.train_end:
            self.write("train_end_")

    def write(self, prefix: str) -> None:
        """Write the history.

        Args:
            prefix: Stands before the name of the file or folder.
        """
        folder = experiment_folder(self)
        saved = self._write(folder.results, prefix)
        assert self.message_service is not None
        self.message_service.write_message(
            f"{type(self).__name__}_results_file_local_paths",
            [path for _, path in saved],
            msg_handling_settings=MessageHandling.UNTIL_END_OF_EPOCH,
        )
        if self.uploader is not None:
            for _, path in saved:
                self.uploader.upload(Path(path), folder.relative(path))

    def _write(self, results: Path, prefix: str) -> list[list[str]]:
        """Write into a folder, and return [name, path] pairs."""
        raise NotImplementedError


class ModelTrainHistoryPlot(ModelTrainHistoryBaseCB):
    """Draws the training history: a folder `plots_epoch_N` of `png` files, or one `pdf`.

    Args:
        epoch_end: Whether it draws after each epoch.
        train_end: Whether it draws after training.
        file_format: "png" or "pdf".
        **kwargs: The details of the experiment, as in `ModelTrainHistoryBaseCB`.
    """

    def __init__(
        self,
        epoch_end: bool = True,
        train_end: bool = False,
        file_format: str = "png",
        **kwargs: Any,
    ) -> None:
        check_format(file_format, PLOT_FORMATS)
        super().__init__("Plot of the history", 97, epoch_end, train_end, file_format, **kwargs)

    def _write(self, results: Path, prefix: str) -> list[list[str]]:
        history, epoch = self.train_loop_obj.train_history, self.train_loop_obj.epoch
        name = f"{prefix}plots_epoch_{epoch}"
        return TrainingHistoryPlotter(results).generate_report(history, name, self.file_format)


class ModelTrainHistoryFileWriter(ModelTrainHistoryBaseCB):
    """Writes the training history to `results.txt`, `results.csv` or `results.tsv`.

    Args:
        epoch_end: Whether it writes after each epoch.
        train_end: Whether it writes after training, to `train_end_results....`.
        file_format: "txt", "csv" or "tsv".
        **kwargs: The details of the experiment, as in `ModelTrainHistoryBaseCB`.
    """

    def __init__(
        self,
        epoch_end: bool = True,
        train_end: bool = False,
        file_format: str = "txt",
        **kwargs: Any,
    ) -> None:
        check_format(file_format, TEXT_FORMATS)
        super().__init__("File of the history", 97, epoch_end, train_end, file_format, **kwargs)
        self._writer = TrainingHistoryWriter()

    def _write(self, results: Path, prefix: str) -> list[list[str]]:
        loop, writer = self.train_loop_obj, self._writer
        writer.experiment_results_local_path = results
        name = f"{prefix}results.{self.file_format}"
        return [
            list(
                writer.generate_report(
                    loop.train_history, loop.epoch, name, file_format=self.file_format
                )
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, for checkpoints."""
        return self._writer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the rows that `state_dict` returned."""
        self._writer.load_state_dict(state)


def experiment_folder(callback: AbstractExperimentCallback) -> ExperimentFolder:
    """Return the folder of the experiment that a callback belongs to."""
    assert callback.project_name is not None
    assert callback.experiment_name is not None
    assert callback.local_model_result_folder_path is not None
    return ExperimentFolder(
        callback.project_name,
        callback.experiment_name,
        callback.train_loop_obj.experiment_timestamp,
        callback.local_model_result_folder_path,
    )

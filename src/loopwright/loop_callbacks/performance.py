"""Evaluating result packages during training, and printing what they found."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.results.arrays import as_plain_lists
from loopwright.results.library_packages import TorchMetricsPackage
from loopwright.results.package import AbstractResultPackage


class ModelPerformanceEvaluation(AbstractCallback):
    """Evaluates a result package and puts its results into the training history.

    They are named `train_NAME` and `val_NAME`, and `train_end_...` after training.

    Args:
        result_package: The package.
        args: The hyperparameters.
        on_each_epoch: Whether it is evaluated after epochs too, not only after training.
        on_train_data: Whether the training data is evaluated.
        on_val_data: Whether the validation data is.
        eval_frequency: Every so many epochs, the first one included; None is every one.
        if_available_output_to_project_dir: Whether files of the package go to the folder of the
            experiment, if the loop has one.
    """

    def __init__(
        self,
        result_package: AbstractResultPackage,
        args: dict[str, Any],
        on_each_epoch: bool = True,
        on_train_data: bool = False,
        on_val_data: bool = True,
        eval_frequency: int | None = None,
        if_available_output_to_project_dir: bool = True,
    ) -> None:
        super().__init__("Evaluation of a result package")
        if not on_train_data and not on_val_data:
            raise ValueError(
                "on_train_data and on_val_data are both False, so nothing would be evaluated. Set "
                "at least one of them."
            )
        if eval_frequency is not None and eval_frequency < 1:
            raise ValueError(f"eval_frequency is {eval_frequency}; expected 1 or more, or None.")
        self.result_package = result_package
        self.train_result_package = copy.deepcopy(result_package) if on_train_data else None
        self.args = args
        self.on_each_epoch = on_each_epoch
        self.on_train_data = on_train_data
        self.on_val_data = on_val_data
        self.eval_frequency = eval_frequency
        self.if_available_output_to_project_dir = if_available_output_to_project_dir

    def on_train_loop_registration(self) -> None:
        loop = self.train_loop_obj
        details = ("project_name", "experiment_name", "experiment_timestamp")
        names = (*details, "local_model_result_folder_path")
        if self.if_available_output_to_project_dir and all(hasattr(loop, name) for name in names):
            for package in self._packages().values():
                package.set_experiment_dir_path_for_additional_results(
                    *(getattr(loop, name) for name in names)
                )
        for package in self._packages().values():
            if isinstance(package, TorchMetricsPackage):
                package.metric.to(loop.device)

    def on_train_begin(self) -> None:
        if self.on_val_data and self.train_loop_obj.validation_loader is None:
            raise ValueError(
                "on_val_data is True, and the loop has no validation loader. Give one, or pass "
                "on_val_data=False, on_train_data=True."
            )

    def on_epoch_end(self) -> None:
        every = self.eval_frequency or 1
        if self.on_each_epoch and self.train_loop_obj.epoch % every == 0:
            self.evaluate_model_performance()

    def on_train_end(self) -> None:
        self.evaluate_model_performance(prefix="train_end_")

    def evaluate_model_performance(self, prefix: str = "") -> None:
        """Evaluate, and put the results into the history.

        Args:
            prefix: Stands before the names.
        """
        for kind, package in self._packages().items():
            self._evaluate(kind, package)
        self.store_evaluated_metrics_to_history(prefix)

    def store_evaluated_metrics_to_history(self, prefix: str = "") -> None:
        """Put the results of the last evaluation into the history."""
        for kind, package in self._packages().items():
            for name, value in (package.get_results() or {}).items():
                self.train_loop_obj.insert_metric_result_into_history(
                    f"{prefix}{kind}_{name}", as_plain_lists(value)
                )

    def _packages(self) -> dict[str, AbstractResultPackage]:
        packages = {"train": self.train_result_package}
        if self.on_val_data:
            packages["val"] = self.result_package
        return {kind: package for kind, package in packages.items() if package is not None}

    def _evaluate(self, kind: str, package: AbstractResultPackage) -> None:
        loop = self.train_loop_obj
        is_train = kind == "train"
        predict = loop.predict_on_train_set if is_train else loop.predict_on_validation_set
        predicted, true, metadata = predict()
        if package.requires_loss:
            loss = (
                loop.evaluate_loss_on_train_set
                if is_train
                else loop.evaluate_loss_on_validation_set
            )
            metadata["loss"] = loss(float_dict_format=True)
        if isinstance(package, TorchMetricsPackage):
            package.metric_reset()
        package.prepare_result_package(
            true, predicted, hyperparameters=self.args, additional_results=metadata
        )


class ModelPerformancePrintReport(AbstractCallback):
    """Prints the latest values of metrics in the training history.

    After training those are the `train_end_...` values, for metrics that have them.

    Args:
        metrics: Their names.
        on_each_epoch: Whether it prints after epochs too, not only after training.
        report_frequency: Every so many epochs, the first one included; None is every one.
        strict_metric_reporting: Whether a metric that is missing raises rather than prints so.
        list_tracked_metrics: Whether the names of all metrics are printed.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        on_each_epoch: bool = True,
        report_frequency: int | None = None,
        strict_metric_reporting: bool = True,
        list_tracked_metrics: bool = False,
    ) -> None:
        super().__init__("Report of metrics", execution_order=97, device_idx_execution=0)
        if not metrics:
            raise ValueError("metrics is empty; give the names of metrics to print.")
        self.metrics = metrics
        self.on_each_epoch = on_each_epoch
        self.report_frequency = report_frequency
        self.strict_metric_reporting = strict_metric_reporting
        self.list_tracked_metrics = list_tracked_metrics

    def on_epoch_end(self) -> None:
        every = self.report_frequency or 1
        if self.on_each_epoch and self.train_loop_obj.epoch % every == 0:
            print(f"--- Epoch {self.train_loop_obj.epoch} ---")
            self.print_performance_report()

    def on_train_end(self) -> None:
        print("--- After training ---")
        self.print_performance_report(prefix="train_end_")

    def print_performance_report(self, prefix: str = "") -> None:
        """Print the metrics, those with the prefix first.

        Raises:
            ValueError: One is missing, and the report is strict.
        """
        history = self.train_loop_obj.train_history
        recorded = [name for name, values in history.items() if values]
        if self.list_tracked_metrics:
            print(f"Metrics: {', '.join(recorded)}")
        for metric in self.metrics:
            name = f"{prefix}{metric}" if f"{prefix}{metric}" in recorded else metric
            if name in recorded:
                print(f"{name}: {history[name][-1]}")
                continue
            missing = (
                f"The metric {metric!r} is not in the training history. There are: "
                f"{', '.join(recorded) or 'none'}."
            )
            if self.strict_metric_reporting:
                raise ValueError(missing)
            print(missing)

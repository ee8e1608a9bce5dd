"""Predictions and results of a model, without training."""

from __future__ import annotations

import os
from typing import Any

from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.results import AbstractResultPackage
from loopwright.tracking import LocalResultsSaver, TrainingHistory
from loopwright.tracking.uploads import make_uploader
from loopwright.trainloop.train_loop import TrainLoop


class PyTorchModelPredictor:
    """Predicts with a model over a loader, and evaluates it.

    Args:
        model: A `TTModel`, or a `ModelWrap` of a plain module.
        data_loader: Gives the batches.
        callbacks: Callbacks of a TrainLoop, for `execute_..._callbacks`.
    """

    def __init__(
        self, model: Any, data_loader: Any, callbacks: list[AbstractCallback] | None = None
    ) -> None:
        self.model = model
        self.data_loader = data_loader
        self.train_loop = TrainLoop(model, None, None, data_loader, None, None)
        self.train_loop.callbacks_handler.register_callbacks(callbacks)

    def model_predict(self) -> tuple[Any, Any, dict[str, Any]]:
        """Return predictions, targets and metadata."""
        return self.train_loop.predict_on_test_set()

    def model_get_loss(self, loss_criterion: Any) -> Any:
        """Return the mean loss over the samples, as `TrainLoop.evaluate_loss_on_test_set` does."""
        self.train_loop.criterion = loss_criterion
        return self.train_loop.evaluate_loss_on_test_set()

    def evaluate_model(
        self,
        result_package: AbstractResultPackage,
        project_name: str,
        experiment_name: str,
        local_model_result_folder_path: str | os.PathLike[str],
        cloud_save_mode: str | None = None,
        bucket_name: str = "model-result",
        cloud_dir_prefix: str = "",
        save_true_pred_labels: bool = False,
    ) -> None:
        """Evaluate a result package, and save the results as an experiment.

        Args:
            result_package: What is evaluated.
            project_name: The folder of the project.
            experiment_name: The name of the experiment.
            local_model_result_folder_path: Where the project's folder is; `~` is expanded.
            cloud_save_mode: Where else to save (see `TrainLoopCheckpoint`).
            bucket_name: The bucket there.
            cloud_dir_prefix: The folder in the bucket.
            save_true_pred_labels: Whether labels and predictions are saved too.
        """
        root = os.path.expanduser(local_model_result_folder_path)
        timestamp = self.train_loop.experiment_timestamp
        uploader = make_uploader(cloud_save_mode, bucket_name, cloud_dir_prefix, root, waits=True)
        result_package.set_experiment_dir_path_for_additional_results(
            project_name, experiment_name, timestamp, root
        )
        results = self.evaluate_result_package(result_package, return_result_package=False)
        history = TrainingHistory(has_validation=False)
        history += dict(results)
        LocalResultsSaver(root, uploader=uploader).save_experiment_results(
            result_package,
            history,
            project_name,
            experiment_name,
            timestamp,
            save_true_pred_labels,
        )

    def evaluate_result_package(
        self, result_package: AbstractResultPackage, return_result_package: bool = True
    ) -> Any:
        """Evaluate a result package, and return it or its dict of results."""
        y_pred, y_true, additional = self.model_predict()
        result_package.prepare_result_package(
            y_true, y_pred, hyperparameters={}, additional_results=additional
        )
        return result_package if return_result_package else result_package.get_results()

    def evaluate_metric(self, metric_class: Any, return_metric: bool = True) -> Any:
        """Evaluate a metric class on targets and predictions; return the metric or its dict."""
        y_pred, y_true, _ = self.model_predict()
        metric = metric_class(y_true, y_pred)
        return metric if return_metric else metric.get_metric_dict()

    def evaluate_metric_list(
        self, metrics_class_list: list[Any], return_metric_list: bool = True
    ) -> Any:
        """Evaluate several metric classes; return the metrics or one dict of all."""
        metrics = [self.evaluate_metric(metric_class) for metric_class in metrics_class_list]
        if return_metric_list:
            return metrics
        return {k: value for metric in metrics for k, value in metric.get_metric_dict().items()}

    def execute_batch_end_callbacks(self) -> None:
        """Call `on_batch_end` of the callbacks."""
        self.train_loop.callbacks_handler.execute("on_batch_end")

    def execute_epoch_end_callbacks(self) -> None:
        """Call `on_epoch_end` of the callbacks."""
        self.train_loop.callbacks_handler.execute("on_epoch_end")

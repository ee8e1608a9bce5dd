"""Losses and predictions of a TrainLoop on its loaders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loopwright.trainloop.multi_loss import MultiLoss
from loopwright.trainloop.predictions import ModelPredictionStore, join_metadata, on_cpu

if TYPE_CHECKING:
    from loopwright.trainloop.callbacks_handler import CallbacksHandler
    from loopwright.trainloop.loop_trainer import LoopTrainer, Losses


class Evaluating:
    """Evaluates and predicts on the loaders of a TrainLoop; kept for as long as nothing changes."""

    trainer: LoopTrainer
    callbacks_handler: CallbacksHandler
    prediction_store: ModelPredictionStore
    model: Any
    criterion: Any
    train_loader: Any
    validation_loader: Any
    test_loader: Any
    collate_batch_pred_fn: Callable[..., Any]
    pred_transform_fn: Callable[..., Any]
    total_iteration_idx: int

    def evaluate_loss_on_train_set(
        self, force_prediction: bool = False, float_dict_format: bool = False
    ) -> Any:
        """Return the mean loss over the samples of the train loader; weights stay.

        Args:
            force_prediction: Compute it even where it is known for these weights.
            float_dict_format: Return a float, or a dict of them, in place of tensors.

        Returns:
            A float64 scalar on the CPU, or a `MultiLoss` of them.
        """
        return self._loss("train", self.train_loader, force_prediction, float_dict_format)

    def evaluate_loss_on_validation_set(
        self, force_prediction: bool = False, float_dict_format: bool = False
    ) -> Any:
        """Do as `evaluate_loss_on_train_set` for the validation loader."""
        return self._loss("validation", self.validation_loader, force_prediction, float_dict_format)

    def evaluate_loss_on_test_set(
        self, force_prediction: bool = False, float_dict_format: bool = False
    ) -> Any:
        """Do as `evaluate_loss_on_train_set` for the test loader."""
        return self._loss("test", self.test_loader, force_prediction, float_dict_format)

    def evaluate_model_loss(self, data_loader: Any) -> Losses:
        """Return the mean loss over the samples of any loader."""
        return self.trainer.mean_losses(data_loader)

    def _loss(self, kind: str, loader: Any, force: bool, as_floats: bool) -> Any:
        _check_loader(kind, loader)
        made_by = (loader, self.model, self.criterion)
        store, name, num_batches = self.prediction_store, f"{kind}_loss", self.total_iteration_idx
        losses = None if force else store.get(name, made_by, num_batches)
        if losses is None:
            losses = self.evaluate_model_loss(loader)
            store.put(name, made_by, num_batches, losses)
        if not as_floats:
            return losses
        return losses.item().loss_dict if isinstance(losses, MultiLoss) else losses.item()

    def predict_on_train_set(
        self, force_prediction: bool = False, execute_callbacks: bool = False
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Return predictions, targets and metadata for the train loader.

        Args:
            force_prediction: Compute them even where they are known for these weights.
            execute_callbacks: Compute them, and call `on_after_batch_prediction` for each batch.
        """
        return self._predictions("train", self.train_loader, force_prediction, execute_callbacks)

    def predict_on_validation_set(
        self, force_prediction: bool = False, execute_callbacks: bool = False
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Do as `predict_on_train_set` for the validation loader."""
        loader = self.validation_loader
        return self._predictions("validation", loader, force_prediction, execute_callbacks)

    def predict_on_test_set(
        self, force_prediction: bool = False, execute_callbacks: bool = False
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Do as `predict_on_train_set` for the test loader."""
        return self._predictions("test", self.test_loader, force_prediction, execute_callbacks)

    def predict_with_model(
        self,
        data_loader: Any,
        execute_callbacks: bool = False,
        dataset_info: dict[str, Any] | None = None,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Return predictions, targets and metadata for any loader.

        Args:
            data_loader: The loader.
            execute_callbacks: Call `on_after_batch_prediction` for each batch.
            dataset_info: What those calls say about the data.
        """
        predictions: Any = []
        targets: Any = []
        metadata = []

        def take(y_pred: Any, y_true: Any, about: Any) -> None:
            nonlocal predictions, targets
            if execute_callbacks:
                arguments = (y_pred, y_true, about, dataset_info)
                self.callbacks_handler.execute("on_after_batch_prediction", *arguments)
            predictions = self.collate_batch_pred_fn(y_pred, predictions)
            targets = self.collate_batch_pred_fn(y_true, targets)
            if about is not None:
                metadata.append(about)

        self.trainer.predict_batches(data_loader, take)
        predictions, targets = map(self.pred_transform_fn, (predictions, targets))
        joined = {name: on_cpu(value) for name, value in join_metadata(metadata).items()}
        return on_cpu(predictions), on_cpu(targets), joined

    def _predictions(
        self, kind: str, loader: Any, force: bool, execute_callbacks: bool
    ) -> tuple[Any, Any, dict[str, Any]]:
        _check_loader(kind, loader)
        made_by = (loader, self.model)
        store, name = self.prediction_store, f"{kind}_predictions"
        found = None
        if not (force or execute_callbacks):
            found = store.get(name, made_by, self.total_iteration_idx)
        if found is None:
            found = self.predict_with_model(loader, execute_callbacks, {"type": kind})
            store.put(name, made_by, self.total_iteration_idx, found)
        y_pred, y_true, metadata = found
        return y_pred, y_true, dict(metadata)  # callers add to it


def _check_loader(kind: str, loader: Any) -> None:
    if loader is None:
        raise ValueError(
            f"There is no {kind} loader: this loop was made with {kind}_loader=None. Make it with "
            "one to evaluate on it."
        )

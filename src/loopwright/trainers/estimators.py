"""A trainer for what fits itself."""

from collections.abc import Collection
from typing import Any

from loopwright.models.estimators import EstimatorModel
from loopwright.trainer import Trainer

_OF_NETWORKS = (
    "create_scheduler_fn",
    "gradient_accumulation_steps",
    "gradient_clip_norm",
    "gradient_clip_value",
    "max_num_train_steps",
)


class EstimatorTrainer(Trainer):
    """Fits an `EstimatorModel` in one step on all rows, in their order.

    With `chunk_size` a step is `partial_fit` on so many rows, and there are as many epochs as asked
    for. Everything around the step is as for a network.

    Args:
        *args: those of `Trainer`.
        chunk_size: rows that are learned at once; all where it is None.
        ignored: names of settings that were declared and have no effect, to be told.
        **options: those of `Trainer`.

    Raises:
        NotImplementedError: there is a chunk size, and the estimator learns from all rows at once.
    """

    model: EstimatorModel

    def __init__(
        self,
        *args: Any,
        chunk_size: int | None = None,
        ignored: Collection[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(*args, **options | {"step_mode": "eager", "precision": "fp32"})
        self.chunk_size = chunk_size
        self.ignored = ignored

    def training_run_start(self) -> None:
        """Say which settings have no effect."""
        super().training_run_start()
        if self.ignored:
            self.print(f"{self.model.name} fits itself, without {', '.join(self.ignored)}")

    def train(self, train_dataset: Any, num_epochs: int | None, *args: Any, **options: Any) -> None:
        """Fit the estimator; settings of an optimizer have no effect."""
        kept = {name: value for name, value in options.items() if name not in _OF_NETWORKS}
        kept["per_device_batch_size"] = self.chunk_size or len(train_dataset[0])
        super().train(train_dataset, num_epochs if self.chunk_size else 1, *args, **kept)

    def get_default_train_dl_kwargs(self, batch_size: int) -> dict[str, Any]:
        """Return the arguments of a loader that keeps the order of the rows."""
        return super().get_default_train_dl_kwargs(batch_size) | {"shuffle": False}

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Fit, and return the loss after that."""
        self.model.learn(*batch, in_parts=self.chunk_size is not None)
        return self.calculate_eval_batch_loss(batch)

    def backward_step(self, loss: Any) -> None:
        """Do nothing: an estimator has no gradients."""

    def optimizer_step(self) -> None:
        """Do nothing: `learn` has changed the estimator."""

    def optimizer_zero_grad(self) -> None:
        """Do nothing, likewise."""

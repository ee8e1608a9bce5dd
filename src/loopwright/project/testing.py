"""Testing in a project: the class that runs a trained model on data that it never saw."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopwright.project.data import _missing
from loopwright.project.metrics import MetricSet
from loopwright.project.trainer import Trainer, metrics_of


class Test:
    """Tests a model on a labelled set that training never saw.

    On construction it calls `load_model`, `create_data_module` and `trainer_setup`, in this order.
    A subclass implements the first two, which set `self.model` and `self.data_module`.

    Args:
        model_path: the file of the model.
        test_dataset_path: the file of the test set.
        trainer_config: arguments of the trainer.
        model_config: see `MODEL_CONFIG`.
        metrics_config: which metrics are computed, by name.
        save_path: the folder that reports are written to; None writes none.
    """

    __test__ = False  # pytest, which takes classes of this name for tests

    def __init__(
        self,
        model_path: str | Path,
        test_dataset_path: str | Path,
        trainer_config: Mapping[str, Any],
        model_config: Mapping[str, Any],
        metrics_config: Mapping[str, bool],
        save_path: str | Path | None = None,
    ) -> None:
        self.model_path = model_path
        self.test_dataset_path = test_dataset_path
        self.trainer_config = dict(trainer_config)
        self.model_config = model_config
        self.metrics_config = metrics_config
        self.save_path = save_path
        self.model: Any = None
        self.data_module: Any = None
        self.trainer: Any = None
        self.test_results: dict[str, Any] | None = None
        self.metrics: MetricSet
        """Targets and predictions of the test."""
        self.load_model()
        self.create_data_module()
        self.trainer_setup()

    def load_model(self) -> None:
        """Set `self.model` to the model in `model_path`."""
        raise NotImplementedError(_missing(self, "load_model"))

    def create_data_module(self) -> None:
        """Set `self.data_module` to a module with the test set."""
        raise NotImplementedError(_missing(self, "create_data_module"))

    def trainer_setup(self) -> None:
        """Set `self.trainer`, made of `trainer_config`."""
        config = {**self.trainer_config, "callbacks": (), "enable_checkpointing": False}
        self.trainer = Trainer(**config)

    def execute_test(self) -> dict[str, Any]:
        """Return the results on the test set: the metrics that are switched on."""
        self.trainer.test(self.model, self.data_module)
        loader = self.data_module.test_dataloader
        self.metrics = metrics_of(
            self.trainer, self.model, loader, self.metrics_config, self.model_config
        )
        self.test_results = self.metrics.compute()
        return self.test_results

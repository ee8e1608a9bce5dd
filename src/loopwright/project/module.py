"""What a project trains: its network, the wrapper that knows the loss, and the optimizers."""

from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from loopwright.components.optimizers import build_optimizer
from loopwright.project.data import Tokenizer, _missing
from loopwright.project.metrics import MetricSet
from loopwright.project.settings import METRICS_CONFIG, MODEL_CONFIG


class Optimizers(Enum):
    """Lists the optimizers of torch; calling a member makes one (D-75).

    ```python
    optimizer = Optimizers.ADAMW(model.parameters(), lr=1e-3)
    ```
    """

    ADADELTA = "Adadelta"
    ADAFACTOR = "Adafactor"
    ADAGRAD = "Adagrad"
    ADAM = "Adam"
    ADAMAX = "Adamax"
    ADAMW = "AdamW"
    ASGD = "ASGD"
    LBFGS = "LBFGS"
    MUON = "Muon"
    NADAM = "NAdam"
    RADAM = "RAdam"
    RMSPROP = "RMSprop"
    RPROP = "Rprop"
    SGD = "SGD"
    SPARSE_ADAM = "SparseAdam"

    def __call__(self, parameters: Any, **arguments: Any) -> torch.optim.Optimizer:
        """Return the optimizer of these parameters."""
        optimizer: torch.optim.Optimizer = getattr(torch.optim, self.value)(parameters, **arguments)
        return optimizer


class NetworkModule:
    """Makes or loads the network of a project.

    Args:
        model_config: the project's.
    """

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self.model_config = model_config

    def load_define_model(self) -> tuple[nn.Module, Tokenizer | None]:
        """Return the network, and its tokenizer or None."""
        raise NotImplementedError(_missing(self, "load_define_model"))


class TrainingModule(nn.Module):
    """Wraps a network with its loss, optimizer and metrics.

    Override `calculate_loss` for another loss, `configure_optimizers` for other optimizers, and
    `train_step` where one loss does not do.

    Args:
        model_config: see `MODEL_CONFIG`.
        metrics_config: which metrics are computed, by name.
        trainer_config: that of the trainer.
        save_path: the folder of the run; None where there is none.
    """

    network_module: ClassVar[type[NetworkModule]] = NetworkModule
    """The class that makes the network."""

    def __init__(
        self,
        model_config: Mapping[str, Any],
        metrics_config: Mapping[str, bool] | None = None,
        trainer_config: Mapping[str, Any] | None = None,
        save_path: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.model_config = MODEL_CONFIG | dict(model_config)
        self.metrics_config = dict(METRICS_CONFIG if metrics_config is None else metrics_config)
        self.trainer_config = dict(trainer_config or {})
        self.save_path = save_path
        self.network, self.tokenizer = self.network_module(self.model_config).load_define_model()

    def forward(self, inputs: Any) -> Any:
        """Return what the network gives."""
        return self.network(inputs)

    def calculate_loss(self, batch: Any) -> dict[str, Any]:
        """Return the loss of a batch of (inputs, targets), in training and evaluation.

        Returns:
            `loss` (a scalar, the mean over samples), `model_outputs` and `batch_size`.
        """
        inputs, targets = batch
        outputs = self(inputs)
        loss = self.model_config["loss_function"](outputs, targets)
        return {"loss": loss, "model_outputs": outputs, "batch_size": len(targets)}

    def train_step(self, batch: Any, update: Callable[..., None]) -> Any:
        """Train on one micro-batch: calculate a loss, and call `update` with it.

        With several optimizers call `update(loss, name)` for each.

        Returns:
            What is recorded: a dict with `loss` and `batch_size`.
        """
        output = self.calculate_loss(batch)
        update(output["loss"])
        return output

    def predictions(self, outputs: Any) -> Tensor:
        """Return the predictions that outputs mean: classes, or the numbers themselves."""
        predicted: Tensor = outputs
        return predicted.argmax(dim=1) if self.model_config["num_classes"] else predicted

    def make_metrics(self) -> MetricSet:
        """Return what computes the metrics of a part."""
        return MetricSet(self.metrics_config, self.model_config)

    def configure_optimizers(self) -> Any:
        """Return the optimizer: Adam at `learning_rate`; or a dict of several by name."""
        rate = {"lr": self.model_config["learning_rate"]}
        return build_optimizer("adam", rate, self.parameters())

    def configure_scheduler(self, optimizer: Any, num_training_steps: int) -> Any:
        """Return the schedule: linear from 0 over `num_warmup_steps`, then linear to 0.

        Args:
            optimizer: one of `configure_optimizers`.
            num_training_steps: steps of the run.
        """
        warmup = self.model_config["num_warmup_steps"]
        return LambdaLR(optimizer, partial(linear, warmup=warmup, total=num_training_steps))


def linear(step: int, *, warmup: int, total: int) -> float:
    """Return the factor of the rate: rising from 0 to 1 over `warmup` steps, then falling to 0."""
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


class Model:
    """Holds the model of a project: the module that is trained.

    A subclass implements `define_model`, which sets `self.model`.

    Args:
        model_config: see `MODEL_CONFIG`.
        metrics_config: which metrics are computed, by name.
        trainer_config: that of the trainer.
        save_path: the folder of the run; None where there is none.

    Raises:
        ValueError: `define_model` set no model.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        metrics_config: Mapping[str, bool] | None = None,
        trainer_config: Mapping[str, Any] | None = None,
        save_path: str | Path | None = None,
    ) -> None:
        self.model_config = model_config
        self.metrics_config = metrics_config
        self.trainer_config = trainer_config
        self.save_path = save_path
        self.model: Any = None
        self.define_model()
        if self.model is None:
            raise ValueError(
                f"{type(self).__name__}.define_model set no model. Assign one to self.model."
            )

    def define_model(self) -> None:
        """Set `self.model`."""
        raise NotImplementedError(_missing(self, "define_model"))

    def get_model(self) -> Any:
        """Return the model that was defined."""
        return self.model

    def get_tokenizer(self) -> Any:
        """Return the model's tokenizer; None where it has none."""
        return getattr(self.model, "tokenizer", None)

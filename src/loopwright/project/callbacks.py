"""What a project's trainer does beside the loop: keeping models, stopping early, logging."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loopwright.callbacks import EarlyStoppingCallback
from loopwright.device import LaggedValue
from loopwright.events import TrainerCallback
from loopwright.project.metrics import MetricSet
from loopwright.watching import watched_value

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

Mode = Literal["min", "max"]

LAST = "last.pt"


class ModelCheckpoint(TrainerCallback):
    """Keeps the files of the best models, and of the last one.

    Files are those of `Trainer.save_checkpoint`, without the optimizer; loading one executes
    nothing.

    Args:
        dirpath: the folder; that of the run where it is None.
        filename: of the best models, with `{epoch}` and metrics such as `{val_loss:.4f}`, which
            become `epoch=3` and `val_loss=0.1234`; `-v1` and so on follows the name of a model
            that is kept already.
        monitor: the metric that says which is best.
        mode: whether the least or the largest value is; NaN is the worst of all.
        save_top_k: how many of the best are kept; -1 keeps all, 0 none.
        save_last: whether `last.pt` is written after each epoch.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        filename: str = "{epoch}-{val_loss:.4f}",
        *,
        monitor: str = "val_loss",
        mode: Mode = "min",
        save_top_k: int = 1,
        save_last: bool = True,
    ) -> None:
        _check_mode(mode)
        self.dirpath = self._given = None if dirpath is None else Path(dirpath)
        self.filename = filename
        self.monitor = monitor
        self.mode = mode
        self.save_top_k = save_top_k
        self.save_last = save_last
        self._kept: list[tuple[float, str]] = []
        """Values and file names, below `dirpath`, of the models that are kept, the best first."""

    @property
    def best_model_path(self) -> Path | None:
        """The file of the best model; None before the first."""
        return self.dirpath / self._kept[0][1] if self._kept and self.dirpath else None

    @property
    def best_model_score(self) -> float | None:
        """What was monitored, of the best model."""
        return self._kept[0][0] if self._kept else None

    @property
    def last_model_path(self) -> Path | None:
        """The file of the last model."""
        return self.dirpath / LAST if self.save_last and self.dirpath is not None else None

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._kept = []
        self.dirpath = self._given or trainer.run_dir or Path.cwd()

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        assert self.dirpath is not None
        if self.save_last:
            _save(trainer, self.dirpath / LAST)
        if self.save_top_k == 0:
            return
        value = float(watched_value(trainer.run_history, self.monitor, self))
        is_full = 0 < self.save_top_k <= len(self._kept)
        if is_full and self._rank(value) >= self._rank(self._kept[-1][0]):
            return
        name = self._free_name(self._name(trainer))
        _save(trainer, self.dirpath / name)
        self._kept.append((value, name))
        self._kept.sort(key=lambda kept: self._rank(kept[0]))
        if is_full:
            (self.dirpath / self._kept.pop()[1]).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Return which models are kept, for checkpoints."""
        return {"kept": [list(each) for each in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        self._kept = [(float(value), str(name)) for value, name in state["kept"]]

    def _rank(self, value: float) -> tuple[bool, float]:
        """Return what is the less the better a value is."""
        if math.isnan(value):
            return True, 0.0
        return False, -value if self.mode == "max" else value

    def _free_name(self, name: str) -> str:
        """Return the name of a file that no kept model has, with a number where one has it."""
        kept = {each for _, each in self._kept}
        names = (name, *(f"{name}-v{number}" for number in range(1, len(kept) + 1)))
        return next(file for file in (f"{each}.pt" for each in names) if file not in kept)

    def _name(self, trainer: Trainer) -> str:
        history = trainer.run_history
        values: dict[str, Any] = {
            name: history.get_latest_metric(name) for name in history.get_metric_names()
        }
        values["epoch"] = history.current_epoch

        def written(match: re.Match[str]) -> str:
            name, form = match[1], match[2] or ""
            if name not in values:
                known = ", ".join(sorted(values))
                raise ValueError(f"filename names {name!r}, which is not recorded: {known}.")
            return f"{name}={format(values[name], form)}"

        return re.sub(r"{(\w+)(?::([^{}]*))?}", written, self.filename)


def _save(trainer: Trainer, path: Path) -> None:
    trainer.save_checkpoint(path, save_optimizer=False, save_scheduler=False)


class EarlyStopping(EarlyStoppingCallback):
    """Ends the run when a metric has not improved for a number of epochs.

    Args:
        monitor: the metric, such as "val_loss".
        min_delta: a change has to be larger than this to count, in the metric's unit.
        patience: epochs without improvement after which the run ends.
        mode: whether less or more is better.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 10,
        *,
        mode: Mode = "min",
    ) -> None:
        _check_mode(mode)
        super().__init__(patience, min_delta, monitor, mode == "max")


def _check_mode(mode: str) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f"mode is {mode!r}; expected 'min' or 'max'.")


class RecordMetrics(TrainerCallback):
    """Records `train_loss`, `val_loss` or `test_loss`, and the metrics likewise (D-73).

    Args:
        train: of the training part.
        evaluated: of the part that is evaluated.
        part: what that is called: "val" or "test".
    """

    def __init__(self, train: MetricSet, evaluated: MetricSet, part: str) -> None:
        self.train, self.evaluated, self.part = train, evaluated, part

    def state_dict(self) -> dict[str, Any]:
        """Return what the epoch has added up, for checkpoints."""
        return self.train.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on adding to what `state_dict` returned."""
        self.train.load_state_dict(state)

    def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.progress.micro_batch == 0:
            self.train.reset()

    def on_train_step_end(
        self, trainer: Trainer, batch: Any, batch_output: Any, **kwargs: Any
    ) -> None:
        self._update(trainer, self.train, batch, batch_output)

    def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        self._record(trainer, "train", "train_loss_epoch", self.train)

    def on_eval_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.evaluated.reset()

    def on_eval_step_end(
        self, trainer: Trainer, batch: Any, batch_output: Any, **kwargs: Any
    ) -> None:
        self._update(trainer, self.evaluated, batch, batch_output)

    def on_eval_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        name = "evaluation_loss" if self.part == "test" else "eval_loss_epoch"
        self._record(trainer, self.part, name, self.evaluated)

    def _update(
        self, trainer: Trainer, metrics: MetricSet, batch: Any, output: Mapping[str, Any]
    ) -> None:
        if metrics.names and "model_outputs" in output:
            predictions = trainer.model.predictions(output["model_outputs"])
            metrics.update(batch[1], predictions)

    def _record(self, trainer: Trainer, part: str, loss: str, metrics: MetricSet) -> None:
        history = trainer.run_history
        if loss in history.get_metric_names():
            history.update_metric(f"{part}_loss", history.get_latest_metric(loss))
        for name, value in metrics.compute().items():
            if not isinstance(value, Mapping):  # the cells of a confusion matrix are for reports
                history.update_metric(f"{part}_{name}", value)


class Log(TrainerCallback):
    """Hands metrics to loggers that have `log_metrics(metrics, step)`, as those of Lightning.

    Args:
        loggers: the loggers.
        every_n_steps: steps between two values of `train_loss_step`.
    """

    def __init__(self, loggers: list[Any], every_n_steps: int) -> None:
        self.loggers, self.every_n_steps = loggers, every_n_steps
        self._loss = LaggedValue()

    def on_train_step_end(
        self, trainer: Trainer, batch: Any, batch_output: Any, **kwargs: Any
    ) -> None:
        step = trainer.progress.step + 1
        if step % self.every_n_steps == 0:
            value = self._loss.read(batch_output["loss"].detach())
            if value is not None:
                self._log({"train_loss_step": value}, step)

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        history = trainer.run_history
        names = history.get_metric_names()
        self._log({name: history.get_latest_metric(name) for name in names}, trainer.progress.step)

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        for logger in self.loggers:
            if hasattr(logger, "save"):
                logger.save()

    def _log(self, metrics: dict[str, Any], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics, step)

"""The trainer that takes the place of `lightning.Trainer`."""

import os
from collections.abc import Iterable
from typing import Any

from loopwright.adapters.lightning.checkpoints import SafeCheckpointIO
from loopwright.adapters.lightning.engine import Engine
from loopwright.adapters.lightning.loops import EvaluationLoop, FitLoop, PredictionLoop
from loopwright.adapters.lightning.upstream import (
    DoublePrecision,
    HalfPrecision,
    LightningTrainer,
    MixedPrecision,
    Precision,
    ProgressBar,
    RunningStage,
    SingleDeviceStrategy,
    TorchCheckpointIO,
    TrainerFn,
    is_param_in_hook_signature,
)
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.default_callbacks import ProgressBarCallback, TerminateOnNaNCallback
from loopwright.errors import NotSupportedError
from loopwright.events import TrainerCallback
from loopwright.execution.report import StepMode, StepReport
from loopwright.history import InMemoryRunHistory, RunHistory
from loopwright.train_arguments import check_modes

_PRECISIONS = (Precision, MixedPrecision, HalfPrecision, DoublePrecision)


class Trainer(LightningTrainer):
    """Trains a `LightningModule` on our loop: with the arguments, hooks and order of Lightning's.

    Lightning's own `Trainer` sets a run up, and keeps what modules and callbacks read of it; the
    epochs, batches and steps run on `loopwright.Trainer`. The same data in the same order gives
    the same weights.

    Args:
        callbacks: Callbacks of Lightning's, and of loopwright's (`TrainerCallback`).
        devices: One device; for several processes see the page on moving from Lightning.
        enable_progress_bar: Shows our bar; one of Lightning's is used where it is given.
        run_dir: As in `loopwright.Trainer`: a folder for the run to own, from which
            `fit(..., resume="latest")` goes on exactly.
        checkpoint: When such a run saves, and what it keeps.
        step_mode: How the steps of automatic optimization are executed, as in
            `loopwright.Trainer`: "eager", "compile", "capture" or "auto".
        options: All other arguments of `lightning.Trainer`, unchanged.

    Raises:
        NotSupportedError: An argument asks for what the adapter does not do; the message names
            the way out.
    """

    fit_loop: Any

    def __init__(
        self,
        *,
        callbacks: Any = None,
        devices: Any = 1,
        enable_progress_bar: bool | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        checkpoint: CheckpointPolicy | None = None,
        step_mode: StepMode = "eager",
        **options: Any,
    ) -> None:
        check_modes("fp32", step_mode)
        given = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
        theirs = [each for each in given if not isinstance(each, TrainerCallback)]
        brings_bar = any(isinstance(each, ProgressBar) for each in theirs)
        super().__init__(
            callbacks=[each for each in theirs if each is not None],
            devices=devices,
            enable_progress_bar=brings_bar,
            **options,
        )
        _refuse_unsupported(self)
        self.engine: Engine | None = None
        """The `loopwright.Trainer` of the last call of `fit`, `validate`, `test` or `predict`."""
        self._is_in_stage = False
        self.run_history: RunHistory = InMemoryRunHistory()
        """What was logged, by epoch, over all calls of `fit`."""
        self.resume: str | os.PathLike[str] | None = None
        shows_bar = enable_progress_bar is not False and not brings_bar and not self.barebones
        self._ours = [each for each in given if isinstance(each, TrainerCallback)]
        for added in (TerminateOnNaNCallback, *([ProgressBarCallback] if shows_bar else [])):
            if not any(isinstance(each, added) for each in self._ours):
                self._ours.append(added())
        self._engine_options = {
            "run_dir": run_dir,
            "checkpoint": checkpoint,
            "step_mode": step_mode,
        }
        self._replace_loops()
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = SafeCheckpointIO()

    def _replace_loops(self) -> None:
        """Put our loops where Lightning's were made."""
        fit, test = self.fit_loop, self.test_loop
        self.fit_loop = FitLoop(
            self,
            min_epochs=fit.min_epochs,
            max_epochs=fit.max_epochs,
            min_steps=fit.min_steps,
            max_steps=fit.max_steps,
        )
        for name, function, stage in (
            ("validate_loop", TrainerFn.VALIDATING, RunningStage.VALIDATING),
            ("test_loop", TrainerFn.TESTING, RunningStage.TESTING),
        ):
            loop = EvaluationLoop(self, function, stage, inference_mode=test.inference_mode)
            setattr(self, name, loop)
        self.predict_loop = PredictionLoop(self, inference_mode=test.inference_mode)

    def fit(
        self,
        model: Any,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: Any = None,
        weights_only: bool | None = None,
        *,
        resume: str | os.PathLike[str] | None = None,
    ) -> None:
        """Train a module.

        Args:
            model: The module.
            train_dataloaders: A loader, or several; or a data module.
            val_dataloaders: A loader, or several.
            datamodule: In place of loaders.
            ckpt_path: A checkpoint in Lightning's format to go on from; its loaders start anew.
            weights_only: True or None: such a file is read without executing anything.
            resume: A checkpoint of ours to go on from exactly, as in `loopwright.Trainer.train`;
                or "latest" for the newest one in `run_dir`.
        """
        if resume is not None and ckpt_path is not None:
            raise ValueError(
                f"resume is {str(resume)!r} and ckpt_path is {str(ckpt_path)!r}; give one of them: "
                "resume for a checkpoint of a run's folder, ckpt_path for a file of Lightning's."
            )
        self.resume = resume
        super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)

    def _run_stage(self) -> Any:
        _refuse_unsupported_steps(self.lightning_module)
        options = {"run_history": self.run_history, **self._engine_options}
        self.engine = Engine(self, self._ours, **options)
        self._is_in_stage = True
        try:
            return super()._run_stage()
        finally:
            self._is_in_stage = False

    @property
    def step_report(self) -> StepReport | None:
        """How the steps of the last `fit` were executed, and why; None before its first batch."""
        return None if self.engine is None else self.engine.step_report

    def engine_for_fit(self) -> Engine:
        """Return the engine of this run; one without a folder for a search before the run."""
        if self.engine is None or not self._is_in_stage:
            self.engine = Engine(self, [TerminateOnNaNCallback()])
        return self.engine

    def _run_sanity_check(self) -> None:
        if self.resume is None:
            super()._run_sanity_check()


def _refuse_unsupported(trainer: Any) -> None:
    strategy = trainer.strategy
    if type(strategy) is not SingleDeviceStrategy:
        raise NotSupportedError(
            f"The strategy is {type(strategy).__name__}; expected one device. Give devices=1 and "
            "no strategy. Where several processes are needed, keep lightning.Trainer for them: "
            "the module is the same for both."
        )
    if type(trainer.precision_plugin) not in _PRECISIONS:
        raise NotSupportedError(
            f"The precision is that of {type(trainer.precision_plugin).__name__}; expected "
            "'32-true', '16-mixed', 'bf16-mixed', '16-true', 'bf16-true' or '64-true'."
        )


def _refuse_unsupported_steps(module: Any) -> None:
    for name in ("training_step", "validation_step", "test_step", "predict_step"):
        step = getattr(module, name)
        if step and is_param_in_hook_signature(step, "dataloader_iter", explicit=True):
            raise NotSupportedError(
                f"{type(module).__name__}.{name} takes a dataloader_iter, and fetches batches "
                "itself; the adapter gives one batch at a time. Write it as "
                f"{name}(self, batch, batch_idx)."
            )

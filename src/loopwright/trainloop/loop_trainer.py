"""The Trainer inside a TrainLoop: the steps ask the model for its loss, the hooks call the loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from loopwright.default_callbacks import ProgressBarCallback
from loopwright.errors import NotSupportedError
from loopwright.execution.eager import EagerStepping
from loopwright.execution.obstacles import NotCapturableError
from loopwright.execution.report import StepMode
from loopwright.loaders import length_of
from loopwright.train_arguments import names_of, optimizers_in
from loopwright.trainer import Trainer
from loopwright.training_state import put_state
from loopwright.trainloop.loop_state import LoopState
from loopwright.trainloop.multi_loss import MultiLoss, MultiOptimizer, by_index
from loopwright.trainloop.parallel import mean_of_parts
from loopwright.trainloop.stopping import LoopKeeper

if TYPE_CHECKING:
    from loopwright.accumulation import Count
    from loopwright.history import LossTracker
    from loopwright.trainloop.train_loop import TrainLoop

Losses = torch.Tensor | MultiLoss
"""A mean loss over samples, or one for each of several losses: float64, on the CPU."""
_SPLIT = "gpu_mode='dp' splits each batch over several GPUs"
_SCHEDULERS = ("loopwright.loop_schedulers.",)
"""Where callbacks for gradients are that look at none, and can be called after the step."""
_READERS = tuple(f"loopwright.loop_callbacks.{name}" for name in ("saving", "tensorboard", "wandb"))
"""Where callbacks for batches are that change neither model nor optimizer."""


class LoopTrainer(Trainer):
    """Trains what a TrainLoop holds, over its own loaders.

    Args:
        loop: The loop.
        device: Where.
        scaler_options: Arguments of the gradient scaler for mixed precision in fp16; None for
            training in the model's own precision.
        step_mode: How a step is executed.
    """

    def __init__(
        self,
        loop: TrainLoop,
        device: torch.device,
        scaler_options: dict[str, Any] | None,
        step_mode: StepMode,
    ) -> None:
        self.loop = loop
        self.scaler_options = scaler_options
        self.evaluated: Losses = torch.zeros(())
        self._is_recorded = False
        self.loss_names: dict[str, str] = {}
        """The loss that each of several optimizers follows."""
        super().__init__(
            loop.model,
            loop.criterion,
            by_index(loop.optimizer),
            [ProgressBarCallback(), LoopState(loop)],
            device=device,
            precision="fp32" if scaler_options is None else "fp16",
            step_mode=step_mode,
        )
        self._keeper = LoopKeeper(loop)

    # ------------------------------------------------------------------------- set-up

    def create_train_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loop's own loader."""
        return self.loop.train_loader

    def get_model(self, keep_torch_compile: bool = True) -> Any:
        """Return the model without the wrapper for several GPUs."""
        model = super().get_model(keep_torch_compile)
        return model.module if isinstance(model, nn.DataParallel) else model

    def load_training_state(self, input_dir: str | os.PathLike[str]) -> dict[str, Any]:
        """Restore the state that the loop goes on from."""
        state = self.loop.continues_from
        assert state is not None
        put_state(self, state)
        return state

    def _create_scalers(self) -> dict[str | None, torch.amp.GradScaler]:
        if self.scaler_options is None:
            return {}
        make, names = torch.amp.GradScaler, names_of(self.optimizer)
        return {name: make(self.device.type, **self.scaler_options) for name in names}

    def _prepare_model_and_optimizer(self) -> None:
        """Take what the loop holds now; move what is a module or an optimizer of torch."""
        self.model, self.optimizer = self.loop.model, by_index(self.loop.optimizer)
        if hasattr(self.loop.criterion, "to"):
            self.loop.criterion = self.loop.criterion.to(self.device)
        self.loss_func = self.loop.criterion
        self.model.to(self.device)
        for optimizer in optimizers_in(self.optimizer):
            if isinstance(optimizer, torch.optim.Optimizer) and self.device.type != "cpu":
                optimizer.load_state_dict(optimizer.state_dict())  # moves to where parameters are

    @property
    def is_inside_epoch(self) -> bool:
        """Whether an epoch is being trained, or the run goes on in the middle of one."""
        return self.progress.phase == "train" or self._resumes_inside_epoch

    @property
    def _has_several(self) -> bool:
        return isinstance(self.optimizer, dict)

    # ------------------------------------------------------------- how long a run is

    def _begin_run(self, num_epochs: int | None, max_num_train_steps: int | None) -> None:
        super()._begin_run(num_epochs, max_num_train_steps)
        loop, length = self.loop, length_of(self.loop.train_loader)
        batches = loop.num_iterations or (length and length * loop.num_epochs)
        left = batches and batches - loop.total_iteration_idx - 1  # of all that fits have in sum
        self.progress.total_steps = left and -(-left // loop.grad_accumulation)

    @property
    def num_train_batches(self) -> int | None:
        """Batches in this epoch; None when unknown."""
        length, loop = super().num_train_batches, self.loop
        if not loop.num_iterations:
            return length
        before_epoch = loop.total_iteration_idx + 1 - self.progress.micro_batch
        left = loop.num_iterations - before_epoch
        return left if length is None else min(length, left)

    def _should_train_an_epoch(self) -> bool:
        loop = self.loop
        if loop.early_stop or self._reached_max_steps():
            return False
        return bool(loop.num_iterations) or self.run_history.current_epoch <= loop.num_epochs

    def _reached_max_steps(self) -> bool:
        limit = self.loop.num_iterations
        return bool(limit) and self.loop.total_iteration_idx + 1 >= limit

    # ---------------------------------------------------------------------- training

    def training_run_start(self) -> None:
        """Tell the loop's callbacks."""
        self.loop.callbacks_handler.execute("on_train_begin")

    def train_epoch_start(self) -> None:
        """Count the epoch, and tell the loop's callbacks."""
        super().train_epoch_start()
        self.loop.begin_epoch(self.run_history.current_epoch - 1)

    def _run_train_step(self, batch: Any) -> None:
        loop, execute = self.loop, self.loop.callbacks_handler.execute
        loop.iteration = self.progress.micro_batch
        loop.total_iteration_idx += 1
        execute("on_batch_begin")
        super()._run_train_step(batch)
        execute("on_batch_end")

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Ask the model for its loss, and update the optimizer of each."""
        loss, size = self._loss("get_loss", batch)
        logged = loss.detach()
        self._note(self._keep_loss, logged)
        output = {"loss": _total(logged), "batch_size": size}
        self._report_train_step(batch, output)
        if isinstance(loss, MultiLoss) or self._has_several:
            self._update_each(loss)
        else:
            self.update(loss)
        return output

    def _keep_loss(self, loss: Any) -> None:
        self.loop.loss_batch_accum.append(loss)

    def _update_each(self, loss: Any) -> None:
        optimizer = self.loop.optimizer
        are_several = isinstance(loss, MultiLoss) and isinstance(optimizer, MultiOptimizer)
        if not are_several or len(loss) != len(optimizer):
            raise ValueError(
                f"get_loss returned {_count(loss, 'loss')}, and the loop has "
                f"{_count(optimizer, 'optimizer')}. A MultiLoss and a MultiOptimizer go "
                "together, with as many of each."
            )
        names = loss.optimizer_loss_map
        self.loss_names = {str(index): names[index] for index in sorted(names)}
        left = len(loss)
        for index, name in self.loss_names.items():
            left -= 1
            self.update(loss[name], index, retain_graph=loss.retain_graph_until_last and left > 0)

    def backward_step(self, loss: Any) -> None:
        """Run backward; a loss that is no tensor has a method for it."""
        if isinstance(loss, torch.Tensor):
            super().backward_step(loss)
            return
        if self._is_recorded:
            raise NotCapturableError(
                f"{type(loss).__name__}.backward has to run in the middle of a step"
            )
        if self._retain_graph:
            loss.backward(retain_graph=True)
        else:
            loss.backward()

    def optimizer_step(self) -> None:
        """Step the optimizer, between the callbacks for gradients."""
        self._note(self._tell, "on_after_gradient_update", int(self._turn or 0))
        self._step()
        self._note(self._tell, "on_after_optimizer_step")

    def _tell(self, method: str, *args: Any) -> None:
        if self.loop.grad_cb_used:
            self.loop.callbacks_handler.execute(method, *args)

    def _step(self) -> None:
        if self._turn is None:
            super().optimizer_step()
        else:
            scaler = self._scalers.get(self._turn, self.loop.disabled_scaler)
            self.loop.optimizer.step(int(self._turn), self.loop.iteration, scaler)

    def optimizer_zero_grad(self) -> None:
        """Drop the gradients of the optimizer in turn."""
        if self._turn is None:
            super().optimizer_zero_grad()
        else:
            self.loop.optimizer.zero_grad(int(self._turn), self.loop.iteration)

    def training_run_epoch_end(self) -> None:
        """Let the loop evaluate, and tell its callbacks."""
        self.loop.end_epoch(self._train_losses())

    def training_run_end(self) -> None:
        """Let the loop test, and tell its callbacks."""
        self.loop.end_training()

    def _train_losses(self) -> Losses:
        """Return the means of the epoch that was just trained."""
        latest = self.run_history.get_latest_metric
        if not self._has_several:
            return _tensor(latest("train_loss_epoch"))
        return MultiLoss(
            {
                name: _tensor(latest(f"train_{index}_loss_epoch"))
                for index, name in self.loss_names.items()
            }
        )

    def _track(self, tracker: LossTracker, loss: Any, count: Count) -> None:
        number = loss if isinstance(loss, (torch.Tensor, float, int)) else loss.detach()
        super()._track(tracker, number, count)

    def _parameters_in_turn(self) -> Iterator[torch.Tensor]:
        if hasattr(self._in_turn(self.optimizer), "param_groups"):
            return super()._parameters_in_turn()
        return iter(self.model.parameters())

    # ------------------------------------------------------------ a batch as one program

    def _make_stepping(self, base: type | None = None) -> EagerStepping:
        return super()._make_stepping(base or LoopTrainer)

    @property
    def _step_users(self) -> tuple[Any, ...]:
        feed = self.loop.batch_model_feed_def
        return (self,) if feed is None else (self, feed)

    def _step_obstacles(self) -> Iterator[str]:
        if isinstance(self.model, nn.DataParallel):
            yield _SPLIT
        for name in ("step", "zero_grad"):
            kind = type(self.loop.optimizer)
            if self._has_several and getattr(kind, name) is not getattr(MultiOptimizer, name):
                yield f"{kind.__name__}.{name} has to run in the middle of a step"
        for callback in self.loop.callbacks:
            if getattr(callback, "needs_eager_steps", False):
                yield f"{type(callback).__name__} has to run in the middle of a step"
        if self.loop.grad_cb_used:
            for name in ("on_after_gradient_update", "on_after_optimizer_step"):
                for method in self._methods_of_others(name, ours=_SCHEDULERS):
                    yield f"{method.__qualname__} has to run in the middle of a step"

    @property
    def _has_other_listeners(self) -> bool:
        names = ("on_batch_begin", "on_batch_end")
        return any(self._methods_of_others(name, ours=_READERS) for name in names)

    @property
    def _follows_schedules(self) -> bool:
        return self._has_other_listeners

    def _methods_of_others(self, name: str, *, ours: tuple[str, ...]) -> list[Any]:
        methods: tuple[Any, ...] = self.loop.callbacks_handler.methods(name)
        return [each for each in methods if not each.__module__.startswith(ours)]

    def _compiled(self) -> None:
        reason = _SPLIT if isinstance(self.model, nn.DataParallel) else None
        if type(self.model).forward is nn.Module.forward:
            reason = f"calls are compiled, and {type(self.model).__name__} has no forward"
        if reason is not None:
            raise NotSupportedError(
                f"step_mode='compile' is not possible here: {reason}. Use 'auto' or 'eager'."
            )

    @contextmanager
    def _recording(self) -> Iterator[None]:
        self._is_recorded = True
        try:
            yield
        finally:
            self._is_recorded = False

    # ------------------------------------------------------------ evaluation, prediction

    def mean_losses(self, loader: Any) -> Losses:
        """Return the mean losses over the samples of a loader; weights and modes stay."""
        self._prepare_model_and_optimizer()
        self._eval_dataloader = loader  # for what shows its length
        try:
            self._run_eval_epoch(loader)
        finally:
            self._eval_dataloader = None
        self.run_history.delete_metric("eval_loss_epoch")
        return self.evaluated

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        """Ask the model for its loss in evaluation."""
        loss, size = self._loss("get_loss_eval", batch)
        loss = loss.detach()
        named = loss.loss_dict if isinstance(loss, MultiLoss) else {}
        return {"loss": _total(loss), "batch_size": size, "named_losses": named}

    def eval_epoch_end(self) -> None:
        """Keep the means, which the loop asks for."""
        if not self._loss_tracker.running_count:
            raise ValueError("The loader gave no batches, so there is no loss to evaluate.")
        named = {name: _tensor(each.average) for name, each in self._named_losses.items()}
        self.evaluated = MultiLoss(named) if named else _tensor(self._loss_tracker.average)

    def predict_batches(self, loader: Any, take: Callable[[Any, Any, Any], None]) -> None:
        """Call `take` with predictions, targets and metadata of each batch; weights, modes stay."""
        self._prepare_model_and_optimizer()
        with self._phase("predict"), torch.no_grad():
            self.model.eval()
            for batch in self._feed.batches(self, loader):
                with self.autocast():
                    output = self.loop.ask("get_predictions", batch, self.device)
                take(*output)

    def _loss(self, method: str, batch: Any) -> tuple[Any, int]:
        """Return the loss of a batch, and the samples that it is a mean over."""
        loss = self.loop.ask(method, batch, self.loop.criterion, self.device)
        size = self.loop.batch_size(batch)
        return mean_of_parts(loss, size) if isinstance(loss, torch.Tensor) else loss, size


def _count(several: Any, what: str) -> str:
    if isinstance(several, (MultiLoss, MultiOptimizer)):
        return f"a {type(several).__name__} of {len(several)}"
    return f"one {what}"


def _total(loss: Any) -> Any:
    return sum(loss.values()) if isinstance(loss, MultiLoss) else loss


def _tensor(mean: float) -> torch.Tensor:
    return torch.tensor(mean, dtype=torch.float64)

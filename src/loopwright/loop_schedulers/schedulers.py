"""Schedulers of the learning rate as callbacks of a TrainLoop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch.optim import lr_scheduler

from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.loop_schedulers import schedules
from loopwright.loop_schedulers.base import AbstractScheduler


class GeneralLRSchedulerCallback(AbstractScheduler, AbstractCallback):
    """Steps a scheduler of torch after each epoch.

    Args:
        scheduler_class: Called with the optimizer and the keywords.
        optimizer_idx: Of several optimizers, the index of one or the optimizer itself.
        **kwargs: Arguments of the scheduler.
    """

    def __init__(
        self, scheduler_class: Callable[..., Any], optimizer_idx: Any = None, **kwargs: Any
    ) -> None:
        AbstractScheduler.__init__(self)
        AbstractCallback.__init__(self, f"Learning rate by {scheduler_class.__name__}")
        self.scheduler_class = scheduler_class
        self.scheduler_args = kwargs
        self.optimizer_idx = optimizer_idx

    def register_train_loop_object(self, train_loop_obj: Any) -> AbstractCallback:
        """Take the loop and make the scheduler for its optimizer."""
        optimizer = self._optimizer(train_loop_obj.optimizer)
        self.scheduler = self.scheduler_class(optimizer, **self.scheduler_args)
        return super().register_train_loop_object(train_loop_obj)

    def on_epoch_end(self) -> None:
        self.scheduler.step()

    def _optimizer(self, given: Any) -> Any:
        several = getattr(given, "optimizer_list", None)
        if several is None:
            return given if self.optimizer_idx in (None, 0) else self._one_of([given])
        if self.optimizer_idx is None:
            raise ValueError(
                f"The loop has {len(several)} optimizers. Give optimizer_idx, from 0 to "
                f"{len(several) - 1}, and a scheduler for each that should follow one."
            )
        return self._one_of(several)

    def _one_of(self, optimizers: Sequence[Any]) -> Any:
        chosen = self.optimizer_idx
        if isinstance(chosen, int):
            if 0 <= chosen < len(optimizers):
                return optimizers[chosen]
        elif any(chosen is each for each in optimizers):
            return chosen
        raise ValueError(
            f"optimizer_idx is {chosen!r}, and the loop has {len(optimizers)} optimizers. Give an "
            f"index from 0 to {len(optimizers) - 1}, or one of the loop's optimizers."
        )


class StepLRScheduler(GeneralLRSchedulerCallback):
    """Multiplies the rate by `gamma` every `step_size` epochs.

    Args:
        step_size: In epochs.
        **kwargs: `optimizer_idx` and arguments of `torch.optim.lr_scheduler.StepLR`.
    """

    def __init__(self, step_size: int, **kwargs: Any) -> None:
        super().__init__(lr_scheduler.StepLR, step_size=step_size, **kwargs)


class MultiStepLRScheduler(GeneralLRSchedulerCallback):
    """Multiplies the rate by `gamma` at given epochs.

    Args:
        milestones_list: The epochs, ascending.
        **kwargs: `optimizer_idx` and arguments of `torch.optim.lr_scheduler.MultiStepLR`.
    """

    def __init__(self, milestones_list: Sequence[int], **kwargs: Any) -> None:
        super().__init__(lr_scheduler.MultiStepLR, milestones=milestones_list, **kwargs)


class LambdaLRScheduler(GeneralLRSchedulerCallback):
    """Sets the rate to its initial value times a function.

    Args:
        lr_lambda: A function of the steps of the scheduler so far, or one for each group of
            parameters.
        execute_epoch_end: Whether a step is made after each epoch.
        execute_batch_end: Whether a step is made after each update of the optimizer.
        **kwargs: `optimizer_idx` and arguments of `torch.optim.lr_scheduler.LambdaLR`.
    """

    def __init__(
        self,
        lr_lambda: Any,
        execute_epoch_end: bool = True,
        execute_batch_end: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr_scheduler.LambdaLR, lr_lambda=lr_lambda, **kwargs)
        self.execute_epoch_end = execute_epoch_end
        self.execute_batch_end = execute_batch_end
        self._turn = 0

    def on_train_loop_registration(self) -> None:
        if self.execute_batch_end:
            self.train_loop_obj.grad_cb_used = True

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        self._turn = optimizer_idx

    def on_after_optimizer_step(self) -> None:
        optimizers = getattr(self.train_loop_obj.optimizer, "optimizer_list", None)
        is_ours = optimizers is None or optimizers[self._turn] is self.scheduler.optimizer
        if self.execute_batch_end and is_ours:
            self.scheduler.step()

    def on_epoch_end(self) -> None:
        if self.execute_epoch_end:
            self.scheduler.step()


class _WarmupScheduler(LambdaLRScheduler):
    """Follows a schedule after each update of the optimizer."""

    def __init__(self, schedule: Callable[..., float], last_epoch: int, **kwargs: Any) -> None:
        super().__init__(
            schedule,
            execute_epoch_end=False,
            execute_batch_end=True,
            last_epoch=last_epoch,
            **kwargs,
        )
        self.callback_name = f"Learning rate: {type(self).__name__}"


class ConstantWithWarmupScheduler(_WarmupScheduler):
    """Raises the rate from 0 and then keeps it.

    Args:
        num_warmup_steps: Updates of the optimizer until the rate is reached.
        last_epoch: Updates that were made before, less one; -1 begins.
        **kwargs: `optimizer_idx`.
    """

    def __init__(self, num_warmup_steps: int, last_epoch: int = -1, **kwargs: Any) -> None:
        schedule = partial(schedules.constant_with_warmup, num_warmup_steps=num_warmup_steps)
        super().__init__(schedule, last_epoch, **kwargs)


class LinearWithWarmupScheduler(_WarmupScheduler):
    """Raises the rate from 0 and then lowers it to 0 in a line.

    Args:
        num_warmup_steps: Updates of the optimizer until the rate is reached.
        num_training_steps: Updates until it is 0 again.
        last_epoch: Updates that were made before, less one; -1 begins.
        **kwargs: `optimizer_idx`.
    """

    def __init__(
        self, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1, **kwargs: Any
    ) -> None:
        schedule = partial(
            schedules.linear_with_warmup,
            num_warmup_steps=num_warmup_steps,
            num_training_steps=num_training_steps,
        )
        super().__init__(schedule, last_epoch, **kwargs)


class CosineWithWarmupScheduler(_WarmupScheduler):
    """Raises the rate from 0 and then lowers it along a cosine.

    Args:
        num_warmup_steps: Updates of the optimizer until the rate is reached.
        num_training_steps: Updates until the end of the last wave.
        num_cycles: Waves; 0.5 falls to 0 once.
        last_epoch: Updates that were made before, less one; -1 begins.
        **kwargs: `optimizer_idx`.
    """

    schedule = staticmethod(schedules.cosine_with_warmup)

    def __init__(
        self,
        num_warmup_steps: int,
        num_training_steps: int,
        num_cycles: float = 0.5,
        last_epoch: int = -1,
        **kwargs: Any,
    ) -> None:
        schedule = partial(
            self.schedule,
            num_warmup_steps=num_warmup_steps,
            num_training_steps=num_training_steps,
            num_cycles=num_cycles,
        )
        super().__init__(schedule, last_epoch, **kwargs)


class HardRestartsCosineWithWarmupScheduler(CosineWithWarmupScheduler):
    """Raises the rate from 0, then lowers it along half a cosine and starts at the top again.

    Args:
        num_warmup_steps: Updates of the optimizer until the rate is reached.
        num_training_steps: Updates until the end of the last fall.
        num_cycles: Falls; the documented 0.5 goes half of the way down, and then to 0 at the end.
        last_epoch: Updates that were made before, less one; -1 begins.
        **kwargs: `optimizer_idx`.
    """

    schedule = staticmethod(schedules.cosine_with_hard_restarts)


class ReduceLROnPlateauScheduler(GeneralLRSchedulerCallback):
    """Lowers the rate when the validation loss stops falling.

    Args:
        main_multi_loss: Of several losses, the one to follow; None takes their mean.
        **kwargs: `optimizer_idx` and arguments of `torch.optim.lr_scheduler.ReduceLROnPlateau`.
    """

    def __init__(self, main_multi_loss: str | None = None, **kwargs: Any) -> None:
        super().__init__(lr_scheduler.ReduceLROnPlateau, **kwargs)
        self.main_multi_loss = main_multi_loss

    def on_train_loop_registration(self) -> None:
        if self.train_loop_obj.validation_loader is None:
            raise ValueError(
                "ReduceLROnPlateauScheduler follows the validation loss, and the loop has no "
                "validation loader. Give one, or use ReduceLROnPlateauMetricScheduler('loss')."
            )

    def on_epoch_end(self) -> None:
        loss = self.train_loop_obj.evaluate_loss_on_validation_set(float_dict_format=True)
        if isinstance(loss, Mapping):
            loss = self._main(loss)
        self.scheduler.step(loss)

    def _main(self, losses: Mapping[str, float]) -> float:
        if self.main_multi_loss is None:
            return sum(losses.values()) / len(losses)
        if self.main_multi_loss not in losses:
            raise ValueError(
                f"main_multi_loss is {self.main_multi_loss!r}; the losses are {', '.join(losses)}."
            )
        return losses[self.main_multi_loss]


class ReduceLROnPlateauMetricScheduler(GeneralLRSchedulerCallback):
    """Lowers the rate when a metric of the training history stops getting better.

    It runs after the callbacks that evaluate.

    Args:
        metric_name: The name in the history.
        **kwargs: `optimizer_idx` and arguments of `torch.optim.lr_scheduler.ReduceLROnPlateau`,
            such as `mode="max"`.
    """

    def __init__(self, metric_name: str, **kwargs: Any) -> None:
        super().__init__(lr_scheduler.ReduceLROnPlateau, **kwargs)
        self.execution_order = 98
        self.metric_name = metric_name

    def on_epoch_end(self) -> None:
        history = self.train_loop_obj.train_history
        if self.metric_name not in history or not history[self.metric_name]:
            raise ValueError(
                f"ReduceLROnPlateauMetricScheduler follows {self.metric_name!r}, which is not in "
                f"the training history. There are: {', '.join(history.keys())}."
            )
        self.scheduler.step(history[self.metric_name][-1])

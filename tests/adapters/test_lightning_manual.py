"""Manual optimization: the module steps its optimizers itself."""

from typing import Any

import pytest
import torch
from tiny import same
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler

from adapters.lightning_modules import BOTH, Classifier, fitted, loader, state_of, trainer_of
from loopwright.finite import NonFiniteLossError


class Adversaries(Classifier):
    """Two networks with an optimizer and a schedule each, of which one steps every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.judge = nn.Linear(3, 1)
        self.steps: list[int] = []

    def configure_optimizers(self) -> Any:
        first, second = Adam(self.net.parameters(), 0.01), SGD(self.judge.parameters(), 0.1)
        return [first, second], [lr_scheduler.StepLR(first, 2, 0.5), lr_scheduler.StepLR(second, 3)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first, second = self.optimizers()
        schedules = self.lr_schedulers()
        self.toggle_optimizer(first)
        assert not any(each.requires_grad for each in self.judge.parameters())
        loss = self.loss(batch) + self.judge(batch[0]).sigmoid().mean()
        first.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(first, 0.1, "norm")
        first.step()
        self.untoggle_optimizer(first)
        if batch_idx % 2:
            with second.toggle_model():
                judged = self.judge(batch[0]).sigmoid().mean()
                second.zero_grad()
                self.manual_backward(-judged)
                second.step()
        for schedule in schedules:
            schedule.step()
        self.log_dict({"loss": loss, "rate": first.param_groups[0]["lr"]}, prog_bar=True)
        self.steps.append(self.global_step)


class ByClosure(Adversaries):
    """Hands closures to its optimizers."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first, second = self.optimizers()

        def closure() -> torch.Tensor:
            loss = self.loss(batch)
            first.zero_grad()
            self.manual_backward(loss)
            return loss

        first.step(closure=closure)
        self.steps.append(self.global_step)
        return {"loss": closure().detach(), "more": 1}


@pytest.mark.parametrize("make", [Adversaries, ByClosure])
def test_manual_optimization_ends_with_the_same_weights(make: Any) -> None:
    theirs, ours = fitted("lightning", make), fitted("loopwright", make)
    assert same(state_of(theirs[1]), state_of(ours[1]))
    assert ours[1].steps == theirs[1].steps
    assert ours[0].global_step == theirs[0].global_step


def test_max_steps_counts_the_steps_of_all_optimizers() -> None:
    ends = [fitted(kind, Adversaries, max_steps=7) for kind in BOTH]
    assert [trainer.global_step for trainer, _ in ends] == [7, 7]
    assert same(state_of(ends[0][1]), state_of(ends[1][1]))


def test_a_single_optimizer_comes_alone() -> None:
    class Single(Classifier):
        """Steps one optimizer."""

        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer = self.optimizers()
            assert isinstance(optimizer, Adam)
            assert self.optimizers(use_pl_optimizer=False) is self.trainer.optimizers[0]
            assert self.lr_schedulers() is None
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    ends = [fitted(kind, Single) for kind in BOTH]
    assert same(state_of(ends[0][1]), state_of(ends[1][1]))


def test_several_optimizers_need_manual_optimization() -> None:
    both = Classifier(lambda self: [Adam(self.parameters()), SGD(self.parameters(), 0.1)])
    with pytest.raises(RuntimeError, match="only supported with manual optimization"):
        trainer_of("loopwright").fit(both, loader())


def test_a_loss_that_is_not_finite_stops_before_its_step() -> None:
    """Lightning trains on with weights that are NaN."""

    class Breaks(Classifier):
        """Has a loss of NaN in its fifth batch."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.global_step == 4 else loss

    trainer, module = fitted("loopwright", Breaks)
    assert trainer.global_step == 4
    assert all(torch.isfinite(each).all() for each in state_of(module))
    assert isinstance(trainer.engine._stop, NonFiniteLossError)

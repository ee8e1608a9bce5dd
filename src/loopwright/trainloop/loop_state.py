"""What a TrainLoop has beside its Trainer: in the state that a run goes on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright.events import TrainerCallback
from loopwright.history import LossTracker
from loopwright.positions import generator_states, set_generator_states

if TYPE_CHECKING:
    from loopwright.trainloop.train_loop import TrainLoop


class LoopState(TrainerCallback):
    """Keeps what a TrainLoop has beside its Trainer in the state that a run goes on from."""

    def __init__(self, loop: TrainLoop) -> None:
        self.loop = loop

    def on_eval_step_end(self, trainer: Any, *, batch_output: Any, **kwargs: Any) -> None:
        """Add each of several losses to its mean."""
        for name, loss in batch_output["named_losses"].items():
            tracker = trainer._named_losses.setdefault(name, LossTracker())
            trainer._track(tracker, loss, batch_output["batch_size"])

    def state_dict(self) -> dict[str, Any]:
        """Return history, counters, callbacks' states and the loaders' generators."""
        loop = self.loop
        return {
            "history": {name: list(values) for name, values in loop.train_history.items()},
            "total_iteration_idx": loop.total_iteration_idx,
            "epoch": loop.epoch,
            "early_stop": loop.early_stop,
            "loss_names": loop.trainer.loss_names,
            "callbacks": [[name, each.state_dict()] for name, each in loop.callbacks_with_state()],
            "generators": [generator_states(loader) for loader in loop.loaders],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; a callback that was not there then starts anew."""
        loop = self.loop
        loop.train_history.wrap_pre_prepared_history(
            {name: list(values) for name, values in state["history"].items()}
        )
        loop.total_iteration_idx, loop.epoch = state["total_iteration_idx"], state["epoch"]
        loop.early_stop, loop.trainer.loss_names = state["early_stop"], state["loss_names"]
        saved = list(state["callbacks"])
        for name, callback in loop.callbacks_with_state():
            found = next((item for item in saved if item[0] == name), None)
            if found is None:
                loop.trainer.print(f"{name} has no saved state, and starts anew")
                continue
            saved.remove(found)
            callback.load_state_dict(found[1])
        for loader, generators in zip(loop.loaders, state["generators"], strict=True):
            set_generator_states(loader, generators)

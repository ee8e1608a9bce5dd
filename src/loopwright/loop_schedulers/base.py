"""The base of the schedulers of a TrainLoop."""

from typing import Any


class AbstractScheduler:
    """Marks a callback as a scheduler, whose state is saved with the model.

    It keeps the scheduler of torch that it steps in `scheduler`.
    """

    def __init__(self) -> None:
        self.scheduler: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler."""
        state: dict[str, Any] = self.scheduler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.scheduler.load_state_dict(state_dict)

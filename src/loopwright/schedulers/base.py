"""The base classes of schedulers: one is told the number of updates, one counts them itself."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class SchedulerBase(ABC):
    """Sets one field of every parameter group from the number of updates.

    The count is given from outside, once per optimizer update:

    ```python
    optimizer.step()
    num_updates += 1
    scheduler.step_update(num_updates)
    ```

    The value that a group has at first is kept in the group as `initial_<field>` and in
    `base_lr_values`. Groups added to the optimizer later join with the value they come with.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        param_group_field: The scheduled field, for example `"lr"` or `"weight_decay"`.

    Raises:
        KeyError: A parameter group lacks the field.
    """

    def __init__(self, optimizer: Optimizer, param_group_field: str = "lr") -> None:
        self.optimizer = optimizer
        self.param_group_field = param_group_field
        self.base_lr_values: list[Any] = []
        self._include_new_groups()
        self._update_param_groups(self.base_lr_values)

    @abstractmethod
    def get_updated_values(self, num_updates: int) -> Any:
        """Return the values of the field after `num_updates` optimizer updates.

        One value goes to all groups, an iterable holds one value per group, None changes nothing.
        """

    def step_update(self, num_updates: int) -> None:
        """Set the field in all groups to its values after `num_updates` optimizer updates.

        Raises:
            ValueError: The number of values is not the number of groups.
        """
        if len(self.optimizer.param_groups) > len(self.base_lr_values):
            self._include_new_groups()
        values = self.get_updated_values(num_updates)
        if values is not None:
            self._update_param_groups(values)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all attributes except the optimizer."""
        return {name: deepcopy(value) for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The state is that of another scheduler or of other parameter groups.
        """
        self._check_state(state_dict)
        vars(self).update(deepcopy(state_dict))

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        expected = vars(self).keys() - {"optimizer"}
        if state_dict.keys() != expected:
            raise ValueError(
                f"This is no state of a {type(self).__name__}: "
                f"missing {sorted(expected - state_dict.keys())}, "
                f"unknown {sorted(state_dict.keys() - expected)}. "
                "Load the state of a scheduler of the same class."
            )
        num_groups = len(self.optimizer.param_groups)
        if len(state_dict["base_lr_values"]) != num_groups:
            raise ValueError(
                f"The state holds {len(state_dict['base_lr_values'])} parameter groups and the "
                f"optimizer has {num_groups}. Give the optimizer the groups it was saved with."
            )

    def _include_new_groups(self) -> None:
        field, initial = self.param_group_field, f"initial_{self.param_group_field}"
        taken: set[int] = set()
        for i, group in enumerate(self.optimizer.param_groups):
            if field not in group:
                raise KeyError(
                    f"param_groups[{i}] has no field {field!r}; it has "
                    f"{sorted(group.keys() - {'params'})}. Choose one of these."
                )
            if isinstance(group[field], Tensor):
                # Groups that take the optimizer's default hold the very same tensor.
                if id(group[field]) in taken:
                    group[field] = group[field].clone()
                taken.add(id(group[field]))
            if i >= len(self.base_lr_values):
                group.setdefault(initial, _plain(group[field]))
                self.base_lr_values.append(_plain(group[initial]))

    def _update_param_groups(self, values: Any) -> None:
        groups = self.optimizer.param_groups
        if isinstance(values, Iterable) and not isinstance(values, str | Tensor):
            values = list(values)
        else:
            values = [values] * len(groups)
        if len(values) != len(groups):
            raise ValueError(
                f"{type(self).__name__}.get_updated_values returned {len(values)} values for "
                f"{len(groups)} parameter groups. Return one value, or one for each group."
            )
        for group, value in zip(groups, values, strict=True):
            present = group[self.param_group_field]
            if isinstance(present, Tensor):
                # A captured or compiled step reads this very tensor, so it has to stay.
                present.fill_(value)
            else:
                group[self.param_group_field] = value


class StatefulSchedulerBase(SchedulerBase):
    """Counts the updates itself: `step` is called once after every optimizer update.

    The first call applies the values for zero updates, the second those for one, and so on: the
    values of a schedule are applied one after another, none is left out.
    """

    def __init__(self, optimizer: Optimizer, param_group_field: str = "lr") -> None:
        super().__init__(optimizer=optimizer, param_group_field=param_group_field)
        # What get_updated_values was asked for last; -1 before the first step.
        self._num_updates = -1

    def step(self) -> None:
        """Set the field in all groups to the next values of the schedule."""
        self._num_updates += 1
        self.step_update(self._num_updates)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all attributes except the optimizer, the count as `num_updates`."""
        state = super().state_dict()
        state["num_updates"] = state.pop("_num_updates")
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, and the values in the optimizer's groups.

        Raises:
            ValueError: The state is that of another scheduler or of other parameter groups.
        """
        state = dict(state_dict)
        if "num_updates" in state:
            state["_num_updates"] = state.pop("num_updates")
        super().load_state_dict(state)
        if self._num_updates >= 0:
            self.step_update(self._num_updates)


def _plain(value: Any) -> Any:
    """Return the number in a tensor with one element, and anything else as it is."""
    return value.item() if isinstance(value, Tensor) else value


def require_positive(**numbers: float) -> None:
    """Raise `ValueError` naming the first number that is not above 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name}={number!r} has to be greater than 0.")


def require_not_negative(**numbers: float | None) -> None:
    """Raise `ValueError` naming the first number below 0; None stands for not given."""
    for name, number in numbers.items():
        if number is not None and not number >= 0:
            raise ValueError(f"{name}={number!r} has to be 0 or greater.")

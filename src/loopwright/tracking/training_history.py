"""The history of a TrainLoop: a list of values for each metric."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping
from copy import deepcopy
from typing import Any


class TrainingHistory:
    """Behaves like a dict of lists, but that `history[name] = value` appends to the list.

    Args:
        has_validation: Whether there is a list for `val_loss` from the start.
        strict_content_check: Raise, rather than print a warning, where the content is doubtful.
    """

    def __init__(self, has_validation: bool = True, strict_content_check: bool = False) -> None:
        names = ("loss", "accumulated_loss", *(("val_loss",) if has_validation else ()))
        self.train_history: dict[str, list[Any]] = {name: [] for name in names}
        self.strict_content_check = strict_content_check

    def insert_single_result_into_history(self, metric_name: str, metric_result: Any) -> None:
        """Append a value to the list of a metric, which is made where there is none."""
        self.train_history.setdefault(metric_name, []).append(metric_result)

    def get_train_history(self) -> dict[str, list[Any]]:
        """Return the lists by name."""
        return self.train_history

    def get_train_history_dict(self, flatten_dict: bool = False) -> dict[str, list[Any]]:
        """Return the lists by name; warns of an empty history.

        Args:
            flatten_dict: Whether values that are dicts become lists of their own, named
                `METRIC_KEY`.

        Raises:
            ValueError: Nothing was recorded, and `strict_content_check` is set.
        """
        if not any(self.train_history.values()):
            self._doubt("The training history is empty.")
        if not flatten_dict:
            return self.train_history
        flat: dict[str, list[Any]] = {}
        for name, values in self.train_history.items():
            flat.setdefault(name, [])
            for value in values:
                for key, item in _flattened(name, value):
                    flat.setdefault(key, []).append(item)
            if not flat[name] and values:
                del flat[name]
        return flat

    def wrap_pre_prepared_history(self, history: dict[str, list[Any]]) -> TrainingHistory:
        """Take the lists of a history that is there already, and return this object."""
        self.train_history = history
        return self

    def qa_check_history_records(self) -> None:
        """Warn of metrics that were not recorded as often as the first one.

        Raises:
            ValueError: There is one, and `strict_content_check` is set.
        """
        lengths = {name: len(values) for name, values in self.train_history.items()}
        expected = next(iter(lengths.values()), 0)
        for name, length in lengths.items():
            if length != expected:
                self._doubt(f"{name} has {length} values in the training history, not {expected}.")

    def add_history_dict(self, other: Mapping[str, Any]) -> None:
        """Append the values of a dict.

        Raises:
            TypeError: It is no dict.
        """
        if not isinstance(other, dict):
            raise TypeError(
                f"A {type(other).__name__} was added to a training history; expected a dict with "
                "a value for each metric."
            )
        for name, value in other.items():
            self.insert_single_result_into_history(name, value)

    def _doubt(self, message: str) -> None:
        if self.strict_content_check:
            raise ValueError(message)
        print(message)

    def __add__(self, other: Mapping[str, Any]) -> TrainingHistory:
        total = deepcopy(self)
        total.add_history_dict(other)
        return total

    __radd__ = __add__

    def __iadd__(self, other: Mapping[str, Any]) -> TrainingHistory:
        self.add_history_dict(other)
        return self

    def __getitem__(self, name: str) -> list[Any]:
        return self.train_history[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.insert_single_result_into_history(name, value)

    def __contains__(self, name: object) -> bool:
        return name in self.train_history

    def __len__(self) -> int:
        return len(self.train_history)

    def __iter__(self) -> Iterator[str]:
        return iter(self.train_history)

    def __str__(self) -> str:
        return str(self.train_history)

    def keys(self) -> KeysView[str]:
        """Return the names of the metrics."""
        return self.train_history.keys()

    def items(self) -> ItemsView[str, list[Any]]:
        """Return the names with their lists."""
        return self.train_history.items()


def _flattened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flattened(f"{name}_{key}", item)
    else:
        yield name, value

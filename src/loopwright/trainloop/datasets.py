"""Data sets over lists."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset


class BasicDataset(Dataset[Any]):
    """Gives the items of a list, or the rows of a tensor."""

    def __init__(self, data: Sequence[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


class ListDataset(Dataset[Any]):
    """Gives tuples of the items of several lists.

    Raises:
        ValueError: Their lengths differ.
    """

    def __init__(self, *data_lists: Sequence[Any]) -> None:
        lengths = {len(data) for data in data_lists}
        if len(lengths) != 1:
            raise ValueError(f"The lists have lengths {sorted(lengths)}; expected one for all.")
        self.data_lists = data_lists

    def __len__(self) -> int:
        return len(self.data_lists[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(data[index] for data in self.data_lists)

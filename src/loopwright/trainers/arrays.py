"""The history of a training as arrays: losses per iteration, accuracy per epoch."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loopwright.checkpoint import write_text_aside
from loopwright.errors import CheckpointError
from loopwright.plain_values import read_number, to_plain

Floats = np.ndarray[Any, np.dtype[np.float64]]

_SERIES = {"loss_history": "loss_iter", "val_loss_history": "val_loss_iter"}
_SERIES |= {"acc_history": "acc_iter"}
"""Each array, and the count of the values in it."""


class HistoryArrays:
    """Keeps a loss for each batch of training and evaluation, and an accuracy for each epoch.

    The arrays have room for the run that is planned, and grow when more comes. A loss on an
    accelerator is not read when it is recorded but with the next line of progress.
    """

    cur_epoch: int
    _unread: list[tuple[str, int, torch.Tensor]]
    """Losses on an accelerator, with the array and the position that each belongs to."""
    _epoch_starts: dict[str, int]
    """Where the newest epoch begins in each array of losses."""
    loss_history: Floats | None = None
    """One loss for each batch of training; None without training data."""
    loss_iter: int = 0
    """How many of them there are."""
    val_loss_history: Floats | None = None
    """One loss for each batch of evaluation; None without validation data."""
    val_loss_iter: int = 0
    acc_history: Floats | None = None
    """One accuracy for each evaluation; None without validation data."""
    acc_iter: int = 0
    iter_per_epoch: int = 0
    """Batches in an epoch of training."""

    def _make_room(self, num_train: int | None, num_val: int | None, num_epochs: int) -> None:
        """Give the arrays slots for so many batches in each of so many epochs; None for no data."""
        self.iter_per_epoch = self.iter_per_epoch if num_train is None else num_train
        sizes = {"loss_history": num_train, "val_loss_history": num_val}
        sizes["acc_history"] = None if num_val is None else 1
        for name, size in sizes.items():
            if size is not None:
                setattr(self, name, _resized(getattr(self, name), size * num_epochs))

    def add_value(self, name: str, value: float | torch.Tensor) -> None:
        """Append a value to one of the arrays.

        Args:
            name: "loss_history", "val_loss_history" or "acc_history".
            value: A number, or a scalar tensor of any device.
        """
        count = _SERIES[name]
        position = getattr(self, count)
        array = getattr(self, name)
        if array is None or position >= len(array):
            array = _resized(array, max(16, 2 * position))
            setattr(self, name, array)
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            self._unread.append((name, position, value))
        else:
            array[position] = float(value)
        setattr(self, count, position + 1)

    def _read_losses(self) -> None:
        """Read what was recorded on an accelerator; this waits for the device, once."""
        if not self._unread:
            return
        losses = torch.stack([loss for *_, loss in self._unread]).tolist()
        for (name, position, _), loss in zip(self._unread, losses, strict=True):
            getattr(self, name)[position] = loss
        self._unread = []

    def _part(self, name: str, start: int = 0) -> Floats | None:
        self._read_losses()
        count = getattr(self, _SERIES[name])
        array = getattr(self, name)
        return None if array is None or not count else array[start:count]

    def _newest(self, name: str) -> float:
        part = self._part(name)
        return 0.0 if part is None else float(part[-1])

    def get_loss_history(self) -> Floats | None:
        """Return the loss of each batch of training so far; None before the first."""
        return self._part("loss_history")

    def get_val_loss_history(self) -> Floats | None:
        """Return the loss of each batch of evaluation so far; None before the first."""
        return self._part("val_loss_history")

    def get_acc_history(self) -> Floats | None:
        """Return the accuracy of each evaluation so far; None before the first."""
        return self._part("acc_history")

    def get_cur_loss(self) -> float:
        """Return the newest loss of training; 0.0 before any."""
        return self._newest("loss_history")

    def get_cur_val_loss(self) -> float:
        """Return the newest loss of evaluation; 0.0 before any."""
        return self._newest("val_loss_history")

    def get_cur_acc(self) -> float:
        """Return the newest accuracy; 0.0 before any."""
        return self._newest("acc_history")

    def get_cur_epoch_loss(self) -> Floats | None:
        """Return the losses of the newest epoch of training; None before any."""
        return self._part("loss_history", self._epoch_starts.get("loss_history", 0))

    def get_cur_epoch_val_loss(self) -> Floats | None:
        """Return the losses of the newest evaluation; None before any."""
        return self._part("val_loss_history", self._epoch_starts.get("val_loss_history", 0))

    def begin_series(self, name: str) -> None:
        """Let an epoch begin in one of the arrays."""
        self._epoch_starts[name] = getattr(self, _SERIES[name])

    def history_values(self) -> dict[str, Any]:
        """Return the arrays as far as they are filled, and their counts."""
        self._read_losses()
        values: dict[str, Any] = {"cur_epoch": self.cur_epoch}
        values["iter_per_epoch"] = self.iter_per_epoch
        values["epoch_starts"] = dict(self._epoch_starts)
        for name, count in _SERIES.items():
            array = getattr(self, name)
            if array is not None:
                values[name] = array[: getattr(self, count)].tolist()
                values[count] = getattr(self, count)
        return values

    def set_history_values(self, values: Mapping[str, Any]) -> None:
        """Take over what `history_values` returned; room that is there already stays."""
        self._unread = []
        self.iter_per_epoch = int(values["iter_per_epoch"])
        self._epoch_starts = {name: int(n) for name, n in values["epoch_starts"].items()}
        for name, count in _SERIES.items():
            if name not in values:
                continue
            filled = np.array([read_number(value) for value in values[name]], dtype=float)
            array = getattr(self, name)
            size = max(len(filled), 0 if array is None else len(array))
            setattr(self, name, _resized(filled, size))
            setattr(self, count, len(filled))

    def save_history(self, fname: str | os.PathLike[str]) -> Path:
        """Write the history to a JSON file, and return its path.

        A name that ends in `.pkl` becomes one in `.history.json`.
        """
        path = history_path(fname)
        write_text_aside(path, json.dumps(to_plain(self.history_values()), allow_nan=False))
        return path

    def load_history(self, fname: str | os.PathLike[str]) -> None:
        """Read a file of `save_history`; the model and its checkpoint are left alone.

        Raises:
            CheckpointError: The file is missing or is no history.
        """
        path = history_path(fname)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            cur_epoch = int(values["cur_epoch"])
            self.set_history_values(values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be read as a history: {error!r}.") from None
        self.cur_epoch = cur_epoch


def history_path(fname: str | os.PathLike[str]) -> Path:
    """Return where a history is: `ck_history.pkl` and `ck` become `ck.history.json`."""
    return _renamed(fname, ".history.json", lambda stem: stem.removesuffix("_history"))


def checkpoint_path(fname: str | os.PathLike[str]) -> Path:
    """Return where a checkpoint is: `best_ck.pkl` and `best_ck` become `best_ck.ckpt`."""
    return _renamed(fname, ".ckpt", str)


def _renamed(fname: str | os.PathLike[str], ending: str, stem_of: Callable[[str], str]) -> Path:
    path = Path(fname)
    if path.name.endswith(ending):
        return path
    stem = path.name.removesuffix(".pkl").removesuffix(".pth").removesuffix(".json")
    return path.with_name(stem_of(stem) + ending)


def _resized(array: Floats | None, size: int) -> Floats:
    """Return an array of at least this size that begins with the values of another."""
    if array is None:
        return np.zeros(size)
    return np.concatenate([array, np.zeros(max(0, size - len(array)))])

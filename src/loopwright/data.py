"""The order of data, and small tools around loaders."""

import os
import random
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from loopwright.seed import derive_seed

LIMIT_BATCHES_VARIABLE = "LOOPWRIGHT_LIMIT_BATCHES"

_ORDER_STREAM = 1  # keeps the draws of the order apart from other draws of (seed, epoch)


def epoch_order(num_samples: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order in which an epoch visits the samples: a permutation, int64 [num_samples].

    It is a pure function of its arguments: no generator of the caller is read or changed, and
    the number of workers, the batch size and earlier epochs play no part.

    Args:
        num_samples: How many samples there are.
        seed: The seed of the run (`Trainer(seed=...)`).
        epoch: The epoch, from 1.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, _ORDER_STREAM, epoch))
    return torch.randperm(num_samples, generator=generator)


def worker_init_fn(worker_id: int) -> None:
    """Seed `random` and numpy in a worker of a `DataLoader` from the worker's own torch seed."""
    seed = torch.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)


def remove_padding(padded_tensor: torch.Tensor, pad_value: float) -> torch.Tensor:
    """Return the rows of a tensor that do not consist of `pad_value` alone.

    Args:
        padded_tensor: Any shape; rows are entries of the first dimension.
        pad_value: The value that fills padding.
    """
    is_padding = padded_tensor == pad_value
    if is_padding.ndim > 1:
        is_padding = is_padding.flatten(1).all(dim=1)
    return padded_tensor[~is_padding]


class DataLoaderSlice:
    """Gives the first `slice_size` batches of a loader, in each epoch."""

    def __init__(self, dl: Any, slice_size: int) -> None:
        self.dl = dl
        self.slice_size = slice_size

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.dl), self.slice_size)

    def __len__(self) -> int:
        try:
            return min(self.slice_size, len(self.dl))
        except TypeError:  # data of unknown length
            return self.slice_size


class LimitBatches:
    """Limits trainers that are made inside `with LimitBatches(n):` to n batches per epoch.

    It sets the environment variable LOOPWRIGHT_LIMIT_BATCHES, which does the same when set from
    outside, and puts back what was there.
    """

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches

    def __enter__(self) -> Self:
        self._earlier = os.environ.get(LIMIT_BATCHES_VARIABLE)
        os.environ[LIMIT_BATCHES_VARIABLE] = str(self.num_batches)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._earlier is None:
            del os.environ[LIMIT_BATCHES_VARIABLE]
        else:
            os.environ[LIMIT_BATCHES_VARIABLE] = self._earlier


def limit_from_environment() -> int | None:
    """Return the number of batches that LOOPWRIGHT_LIMIT_BATCHES asks for; None when unset.

    Raises:
        ValueError: The variable is no positive integer.
    """
    text = os.environ.get(LIMIT_BATCHES_VARIABLE, "")
    if text.lower() in ("", "none"):
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(
            f"{LIMIT_BATCHES_VARIABLE} is {text!r}; expected a positive number of batches, or none."
        )
    return int(text)

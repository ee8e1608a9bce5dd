"""Dividing rows into parts: by fractions or counts, in order or shuffled."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from loopwright.errors import ConfigurationError

_logger = logging.getLogger(__name__)

DEFAULT_SAMPLES: Mapping[str, float] = {"train": 0.75, "test": 0.25}


def complete_samples(
    *, train: float | None, test: float | None, validation: float | None = None
) -> dict[str, float]:
    """Return the parts with what was left out filled in.

    A float is a fraction of the rows, an integer a count. With neither train nor test given they
    are 0.75 and 0.25 of what validation leaves; with one of them as a fraction, the other is
    the rest.

    Raises:
        ValueError: fractions add up to more than one, or a part cannot be told from the other.
    """
    taken = validation if isinstance(validation, float) else 0.0
    if train is None and test is None:
        train, test = ((1.0 - taken) * DEFAULT_SAMPLES[part] for part in ("train", "test"))
    elif train is None or test is None:
        given = train if train is not None else test
        missing = "test" if test is None else "train"
        if not isinstance(given, float):
            raise ConfigurationError(
                f"{missing} is left out and the other part is a count, {given}: give both."
            )
        rest = round(1.0 - taken - given, 12)
        train, test = (given, rest) if train is not None else (rest, given)
        if rest <= 0:
            raise ConfigurationError(
                f"nothing is left for {missing}: the other parts take all rows."
            )
    parts = {"train": train, "validation": validation, "test": test}
    samples = {name: share for name, share in parts.items() if share is not None}
    _check_fractions(samples)
    return samples


def _check_fractions(samples: Mapping[str, float]) -> None:
    fractions = {name: share for name, share in samples.items() if isinstance(share, float)}
    total = sum(fractions.values())
    listed = ", ".join(f"{name} {share:g}" for name, share in samples.items())
    if total > 1.0 + 1e-9:
        raise ConfigurationError(
            f"the fractions add up to {total:g}, more than all rows ({listed})"
        )
    if len(fractions) == len(samples) and total < 1.0 - 1e-9:
        _logger.warning(
            "The fractions add up to %g (%s): the other rows are not used.", total, listed
        )


def split_indices(
    num_rows: int, samples: Mapping[str, float], *, shuffle: bool, seed: int
) -> dict[str, Tensor]:
    """Return the row numbers of each part; no row is in two of them.

    The order comes from a generator of its own, so the same seed gives the same parts and nothing
    else changes.

    Raises:
        ConfigurationError: the rows do not suffice, or a part would be empty.
    """
    order = torch.arange(num_rows)
    if shuffle:
        order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    sizes = _count_rows(num_rows, samples)
    parts = {}
    start = 0
    for name, size in sizes.items():
        parts[name] = order[start : start + size]
        start += size
    return parts


def _count_rows(num_rows: int, samples: Mapping[str, float]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    share_so_far = 0.0
    rows_so_far = 0
    for name, share in samples.items():
        if isinstance(share, float):
            # Rounding the sum and not each part: parts that add up to one leave no row over.
            share_so_far += share
            end = round(num_rows * share_so_far)
            sizes[name] = end - rows_so_far
            rows_so_far = end
        else:
            sizes[name] = share
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"{name} would get no row of {num_rows}. Give it more.")
    if sum(sizes.values()) > num_rows:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ConfigurationError(f"{listed}: that is more than the {num_rows} rows there are.")
    return sizes

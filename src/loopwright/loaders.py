"""The loaders that a trainer makes: whole batches by index, workers, and iterable data.

Each is an `EpochLoader`: a batch is a pure function of (seed, epoch, position), so an epoch can be
entered at any position, and the number of workers changes nothing.
"""

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from loopwright.columns import Columns, as_dataset, columns_of, row_numbers
from loopwright.data import DataLoaderSlice, epoch_order
from loopwright.ends import ignore_requests
from loopwright.seed import derive_seed, fixed_draws

_DRAWS_STREAM = 2  # keeps what a dataset draws apart from the order's draws of (seed, epoch)
_BLOCK_BYTES = 2**22  # rows gathered at once: fewer calls; more gains nothing (measured)


class EpochLoader(ABC):
    """Gives the batches of an epoch. Set `seed`, `epoch` and `start` before iterating."""

    dataset: Any
    batch_size: int | None
    seed: int = 0
    """The seed of the run."""
    epoch: int = 1
    """The epoch, from 1."""
    start: int = 0
    """How many batches at the head of the epoch are left out, when a run is resumed."""
    makes_again: bool = True
    """Whether a batch depends on seed, epoch and position alone, so that it can be made again."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches of `epoch` from position `start`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of workers and of copies on a device; iterating again makes them anew."""


class TensorLoader(EpochLoader):
    """Gives batches of tensors in memory, whole batches by index.

    A batch is a list with one tensor per column, as a `DataLoader` over a `TensorDataset` gives
    (or one tensor, for a dataset that is one). Where order allows, batches are views of the data.
    """

    def __init__(
        self,
        dataset: Any,
        columns: "Columns",
        *,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        sampler: Iterable[int] | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.sampler = sampler
        self.drop_last = drop_last
        self.device: torch.device | None = None
        self._columns = columns
        self._resident: list[torch.Tensor] | None = None
        self._shuffle = shuffle

    def __len__(self) -> int:
        full, rest = divmod(self.num_samples, self.batch_size or 1)
        return full + (1 if rest and not self.drop_last else 0)

    @property
    def num_samples(self) -> int:
        """How many samples an epoch visits before incomplete batches are dropped."""
        return len(self.sampler) if isinstance(self.sampler, Sized) else self._columns.num_rows

    @property
    def num_bytes(self) -> int:
        """What the columns occupy in memory."""
        return sum(column.nbytes for column in self._columns.tensors)

    def move_to(self, device: torch.device) -> None:
        """Give batches from a copy of the columns on `device`, made now."""
        self.device = device
        self._columns_in_place()

    def close(self) -> None:
        self._resident = None

    def __iter__(self) -> Iterator[Any]:
        columns = self._columns_in_place()
        order = self._order()
        parts = self._gathered(columns, order) if order is not None else self._sliced(columns)
        if self._columns.is_single:
            return (batch[0] for batch in parts)
        return iter(parts)

    def _columns_in_place(self) -> list[torch.Tensor]:
        if self.device is None:
            return self._columns.tensors
        if self._resident is None:
            self._resident = [column.to(self.device) for column in self._columns.tensors]
        return self._resident

    def _order(self) -> torch.Tensor | None:
        """Return the rows of this epoch in order, or None for all rows as they stand."""
        rows = self._columns.rows
        if self.sampler is not None:
            chosen = row_numbers(list(self.sampler), self._columns.num_rows)
        elif self._shuffle:
            chosen = epoch_order(self._columns.num_rows, self.seed, self.epoch)
        else:
            return rows
        return chosen if rows is None else rows[chosen]

    def _last_row(self, num_rows: int) -> int:
        size = self.batch_size or 1
        return num_rows - num_rows % size if self.drop_last else num_rows

    def _gathered(
        self, columns: list[torch.Tensor], order: torch.Tensor
    ) -> Iterator[list[torch.Tensor]]:
        size = self.batch_size or 1
        bytes_per_row = max(1, self.num_bytes // max(1, len(columns[0])))
        block = max(1, _BLOCK_BYTES // (bytes_per_row * size)) * size
        order = order[self.start * size : self._last_row(len(order))]
        if columns[0].is_cuda:  # a copy from pinned memory does not wait for the device
            order = order.pin_memory().to(columns[0].device, non_blocking=True)
        for begin in range(0, len(order), block):
            rows = order[begin : begin + block]
            parts = [column.index_select(0, rows).split(size) for column in columns]
            yield from map(list, zip(*parts, strict=True))

    def _sliced(self, columns: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        """Give views of the data, unless the caller turns out to write into its batches.

        The first batch is a copy: when that has changed by the time of the second, all others are
        copies too. Writing into a later one alone is seen by its version counter.
        """
        size = self.batch_size or 1
        last = self._last_row(len(columns[0]))
        versions = _versions(columns)
        writes = False
        views = zip(
            *(column[self.start * size : last].split(size) for column in columns), strict=True
        )
        for begin, parts in zip(range(self.start * size, last, size), views, strict=False):
            batch = list(parts)
            first = begin == self.start * size
            if first or writes:
                batch = [part.clone() for part in batch]
            yield batch
            if first:
                rows = slice(begin, begin + size)
                writes = not all(map(torch.equal, batch, [column[rows] for column in columns]))
            elif not writes and versions != _versions(columns):
                raise RuntimeError(
                    f"A batch was changed in place at position {begin // size} of the epoch, but "
                    "the first batch was not, so this one was a view of the dataset, which is now "
                    "changed. Use an operation that makes a new tensor, or clone the batch."
                )


def _versions(columns: list[torch.Tensor]) -> list[int]:
    """Return how often each tensor was written to; tensors of inference mode do not count it."""
    return [0 if column.is_inference() else column._version for column in columns]


class BatchKey(list[int]):
    """The indices of a batch, with the seed for what the dataset draws while it is made."""

    def __init__(self, indices: Iterable[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __reduce__(self) -> tuple[Any, ...]:
        return (BatchKey, (list(self), self.seed))


class _KeyedBatches(Sampler[BatchKey]):
    """Numbers the batches of a batch sampler and attaches to each its seed."""

    def __init__(self, batches: Iterable[list[int]]) -> None:
        self.batches = batches
        self.seed = self.start = 0
        self.epoch = 1

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # a TypeError is what len() promises

    def __iter__(self) -> Iterator[BatchKey]:
        for position, indices in enumerate(self.batches):
            if position >= self.start:
                yield BatchKey(indices, derive_seed(self.seed, _DRAWS_STREAM, self.epoch, position))


class _EpochOrder(Sampler[int]):
    """Visits the samples of a dataset in the order of the epoch."""

    def __init__(self, dataset: Sized) -> None:
        self.dataset = dataset
        self.seed = 0
        self.epoch = 1

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(len(self.dataset), self.seed, self.epoch).tolist())


class _BatchMaker:
    """Makes whole batches in a worker: samples and collation, under the seed of the batch."""

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any], *, fixes_draws: bool
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.fixes_draws = fixes_draws

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, key: BatchKey) -> Any:
        if not self.fixes_draws:
            return self._make(key)
        with fixed_draws(key.seed):
            return self._make(key)

    def _make(self, key: BatchKey) -> Any:
        by_batch = getattr(self.dataset, "__getitems__", None)
        samples = by_batch(list(key)) if by_batch else [self.dataset[index] for index in key]
        return self.collate(samples)


def _as_made(batch: Any) -> Any:
    """Pass on a batch that is collated already."""
    return batch


class MapLoader(EpochLoader):
    """Gives the batches of a map-style dataset through a `DataLoader`, with workers or without.

    What the dataset draws from the global generators of `random`, numpy and torch is fixed per
    batch by (seed, epoch, position); the generators are restored after each batch.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[list[int]] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        reproducible_draws: bool = True,
        **worker_options: Any,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size if batch_sampler is None else None
        self.collate_fn = collate_fn or default_collate
        self.makes_again = reproducible_draws and sampler is None and batch_sampler is None
        self.num_workers = worker_options.get("num_workers", 0)
        if self.num_workers:
            worker_options.setdefault("persistent_workers", True)
            _protect_workers(worker_options)
        self._order = _EpochOrder(dataset) if shuffle and sampler is None else None
        self.sampler = _first(sampler, self._order, SequentialSampler(dataset))
        self.batch_sampler = _first(
            batch_sampler, BatchSampler(self.sampler, batch_size, drop_last)
        )
        self._keys = _KeyedBatches(self.batch_sampler)
        self._generator = torch.Generator()
        maker: Any = _BatchMaker(dataset, self.collate_fn, fixes_draws=reproducible_draws)
        self._make_loader = partial(
            DataLoader,
            maker,
            batch_sampler=self._keys,
            collate_fn=_as_made,
            generator=self._generator,
            **worker_options,
        )
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Any]:
        self._keys.seed, self._keys.epoch, self._keys.start = self.seed, self.epoch, self.start
        if self._order is not None:
            self._order.seed, self._order.epoch = self.seed, self.epoch
        self._generator.manual_seed(derive_seed(self.seed, _DRAWS_STREAM, self.epoch))
        if self._loader is None:
            self._loader = self._make_loader()
        return iter(self._loader)

    def close(self) -> None:
        self._loader = None


def _protect_workers(options: dict[str, Any]) -> None:
    """Let workers ignore what asks a run to stop, before they do what the user's function does."""
    options["worker_init_fn"] = partial(_init_worker, options.get("worker_init_fn"))


def _init_worker(given: Callable[[int], Any] | None, worker: int) -> None:
    ignore_requests()
    if given is not None:
        given(worker)


def _first(*candidates: Any) -> Any:
    return next(candidate for candidate in candidates if candidate is not None)


class IterableLoader(EpochLoader):
    """Gives the batches of an `IterableDataset`, whose length may be unknown.

    Without workers, what the dataset draws is fixed per batch by (seed, epoch, position); with
    them, per worker by (seed, epoch, worker). To enter an epoch at a position, the batches before
    it are made and dropped, unless (without workers) the dataset has `state_dict` and
    `load_state_dict`.
    """

    makes_again = False
    dataset_state: Any = None
    """What `position` returned at the position to start from."""

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int,
        reproducible_draws: bool = True,
        **options: Any,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = options.get("num_workers", 0)
        self._fixes_draws = reproducible_draws and not self.num_workers
        if self.num_workers:
            _protect_workers(options)
        self.keeps_position = self._fixes_draws and hasattr(dataset, "load_state_dict")
        self._generator = torch.Generator()
        self._loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=batch_size, generator=self._generator, **options
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._generator.manual_seed(derive_seed(self.seed, _DRAWS_STREAM, self.epoch))
        batches = self._with_fixed_draws() if self._fixes_draws else iter(self._loader)
        if self.dataset_state is not None or not self.start:
            return batches
        return self._after_start(batches)

    def position(self) -> Any:
        """Return the state of the dataset, when it keeps one that tells where it stands."""
        return self.dataset.state_dict() if self.keeps_position else None

    def _after_start(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Drop the batches before the start, whose draws leave the global generators alone."""
        with fixed_draws(derive_seed(self.seed, _DRAWS_STREAM, self.epoch)):
            for _ in islice(batches, self.start):
                pass
        yield from batches

    def _with_fixed_draws(self) -> Iterator[Any]:
        position, end = 0 if self.dataset_state is None else self.start, object()
        with fixed_draws(derive_seed(self.seed, _DRAWS_STREAM, self.epoch)):
            if self.dataset_state is not None:
                self.dataset.load_state_dict(self.dataset_state)
            batches = iter(self._loader)
        while True:
            with fixed_draws(derive_seed(self.seed, _DRAWS_STREAM, self.epoch, position)):
                batch = next(batches, end)
            if batch is end:
                return
            yield batch
            position += 1

    def close(self) -> None:
        """Do nothing: workers end with each epoch, since they are seeded for one."""


_LOADER_OPTIONS = frozenset(inspect.signature(DataLoader).parameters) - {"dataset", "collate_fn"}
_WORKER_OPTIONS = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory_device",
    "in_order",
)


def make_loader(
    dataset: Any,
    options: dict[str, Any],
    *,
    given: Collection[str],
    collate_fn: Callable[[list[Any]], Any] | None,
) -> EpochLoader:
    """Make the loader that suits a dataset.

    Args:
        dataset: Data in memory (see `columns_of`), a map-style or an iterable dataset.
        options: Arguments of a `DataLoader`, and `reproducible_draws` (default True): whether
            what a dataset draws from the global generators is fixed per batch.
        given: The names of the options that the user chose; the others are defaults.
        collate_fn: Makes a batch of a list of samples.

    Raises:
        TypeError: An option is not known.
        ValueError: Options contradict each other or the dataset.
    """
    _check_options(options, given)
    dataset, options = as_dataset(dataset), dict(options)
    if collate_fn is None:
        collate_fn = options.pop("collate_fn", None)
    if isinstance(dataset, IterableDataset):
        return _iterable_loader(dataset, options, given=given, collate_fn=collate_fn)
    if options.get("batch_size") is None and "batch_sampler" not in options:
        raise ValueError(
            "batch_size is None, which means a dataset that gives whole batches; that is for "
            "iterable datasets. Give a batch size, or a batch_sampler."
        )
    generator = options.pop("generator", None)
    if generator is not None and options.get("shuffle"):
        options["sampler"] = RandomSampler(dataset, generator=generator)
    own = _only(options, "batch_size", "drop_last", "shuffle", "sampler")
    if "sampler" in own or "batch_sampler" in options:
        own.pop("shuffle", None)
    by_index = (
        collate_fn is None
        and "batch_sampler" not in options
        and not ("num_workers" in given and options.get("num_workers"))
    )
    columns = columns_of(dataset) if by_index else None
    if columns is not None:
        return TensorLoader(dataset, columns, **own)
    extra = _only(options, "batch_sampler", "reproducible_draws", *_WORKER_OPTIONS)
    own.setdefault("batch_size", 1)
    return MapLoader(dataset, collate_fn=collate_fn, **own, **extra)


def _iterable_loader(
    dataset: Any,
    options: dict[str, Any],
    *,
    given: Collection[str],
    collate_fn: Callable[[list[Any]], Any] | None,
) -> IterableLoader:
    refused = [name for name in ("shuffle", "sampler", "batch_sampler") if name in given]
    if any(options[name] for name in refused):
        raise ValueError(
            f"{', '.join(refused)} cannot be given for an iterable dataset, which has no order to "
            "choose. Shuffle inside the dataset."
        )
    if "num_workers" not in given:
        options["num_workers"] = 0  # every worker would give the whole data, unless it is split
    if not options["num_workers"]:
        options.pop("worker_init_fn", None)
    kept = _only(options, "batch_size", "drop_last", "reproducible_draws", *_WORKER_OPTIONS)
    return IterableLoader(dataset, collate_fn=collate_fn, **kept)


def _only(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _check_options(options: dict[str, Any], given: Collection[str]) -> None:
    known = sorted(_LOADER_OPTIONS | {"collate_fn", "reproducible_draws"})
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."
            raise TypeError(f"{name!r} is no option of a loader.{hint}")
    if "batch_sampler" in options:
        clash = sorted({"batch_size", "shuffle", "sampler", "drop_last"}.intersection(given))
    else:
        clash = ["shuffle"] if "sampler" in options and "shuffle" in given else []
        clash = [name for name in clash if options[name]]
    if clash:
        owner = "batch_sampler" if "batch_sampler" in options else "sampler"
        raise ValueError(f"{owner} decides the order itself: leave out {', '.join(clash)}.")


def innermost(loader: Any) -> Any:
    """Return the loader inside any `DataLoaderSlice`."""
    while isinstance(loader, DataLoaderSlice):
        loader = loader.dl
    return loader


def close_loader(loader: Any) -> None:
    """Close a loader that a trainer made; leave one that the user made alone."""
    inner = innermost(loader)
    if isinstance(inner, EpochLoader):
        inner.close()


def length_of(loader: Any) -> int | None:
    """Return the number of batches; None without a loader or for data of unknown length."""
    try:
        return len(loader)
    except TypeError:
        return None

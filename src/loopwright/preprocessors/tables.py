"""Preprocessors of tables: filling what is missing, and spreading categories out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, Samples
from loopwright.errors import NotSupportedError
from loopwright.extras import require
from loopwright.preprocessors.base import Chunk, Preprocessor, as_tensor, flat, preprocessors

Strategy = Literal["mean", "median", "most_frequent", "constant"]


@preprocessors.register("impute")
class Impute(Preprocessor):
    """Fills in missing values (NaN), column by column, from the training part.

    Categories get the most frequent one, whatever the strategy for numbers; with `constant` they
    stay missing.

    Args:
        strategy: what numbers get.
        fill_value: that of `constant`.
    """

    extra = "sklearn"
    learned = ("fill",)

    def __init__(self, strategy: Strategy = "mean", fill_value: float = 0.0) -> None:
        self.strategy: Strategy = strategy
        self.fill_value = fill_value
        self.fill: np.ndarray | None = None
        self._names: tuple[str, ...] = ()
        self._categories: tuple[tuple[str, ...], ...] = ()

    def describe(self, info: Array) -> Array:
        if len(info.shape) != 1:
            raise ValueError(f"impute takes rows of a table; features have the shape {info.shape}.")
        self._names, self._categories = info.names, info.categories
        return info

    def fit(self, features: Samples, labels: Tensor | None = None) -> None:
        rows = flat(as_tensor(features, "impute"))
        if self.strategy != "median":
            self.fit_generator([(features, labels)])
            return
        self._fit_frequent([rows])
        imputer = require("sklearn.impute", "sklearn").SimpleImputer(
            strategy="median", keep_empty_features=True
        )
        self._take(imputer.fit(rows).statistics_)

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        self.require_chunks()
        rows = (flat(as_tensor(features, "impute")) for features, _ in chunks)
        if self.strategy == "constant":
            width = next(iter(rows)).shape[1]
            is_category = [bool(known) for known in self._categories] or [False] * width
            self.fill = np.where(is_category, np.nan, self.fill_value)
        elif self.strategy == "most_frequent":
            self._fit_frequent(rows)
        else:
            scaler = require("sklearn.preprocessing", "sklearn").StandardScaler(with_std=False)

            def added() -> Iterable[np.ndarray]:
                for chunk in rows:
                    with np.errstate(invalid="ignore"):  # a column may be empty so far
                        scaler.partial_fit(chunk)
                    yield chunk

            self._fit_frequent(added())
            self._take(scaler.mean_)

    def require_chunks(self) -> None:
        if self.strategy == "median":
            raise NotSupportedError(
                "impute cannot be fitted in chunks with the strategy median, which needs all rows "
                "at once. Take mean or most_frequent, or leave out chunk_size."
            )

    def _fit_frequent(self, chunks: Iterable[np.ndarray]) -> None:
        """Learn the most frequent value of each column that needs it, the least of equal ones."""
        counts: list[Counter[float]] = []
        for chunk in chunks:
            counts = counts or [Counter() for _ in range(chunk.shape[1])]
            for column, counter in enumerate(counts):
                if self.strategy == "most_frequent" or self._is_category(column):
                    values, times = np.unique(chunk[:, column], return_counts=True)
                    counter.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
        fill = []
        for counter in counts:
            known = {value: count for value, count in counter.items() if value == value}
            fill.append(min(known, key=lambda v: (-known[v], v)) if known else np.nan)
        self.fill = np.array(fill)
        if self.strategy == "most_frequent":
            self._take(self.fill)

    def _take(self, fill: np.ndarray) -> None:
        assert self.fill is not None
        chosen = [self.fill[i] if self._is_category(i) else v for i, v in enumerate(fill)]
        self.fill = np.array(chosen, dtype=np.float64)
        empty = np.flatnonzero(np.isnan(self.fill))
        if len(empty):
            name = self._names[empty[0]] if self._names else f"column {empty[0]}"
            self.fill = None
            raise ValueError(
                f"{name} has no value in the training part to fill in others from. Leave it out, "
                "or take the strategy constant."
            )

    def _is_category(self, column: int) -> bool:
        return bool(self._categories and self._categories[column])

    def transform(self, features: Samples) -> Tensor:
        self._require_fitted()
        rows = as_tensor(features, "impute")
        return torch.where(rows.isnan(), torch.from_numpy(self.fill).to(rows.dtype), rows)


@preprocessors.register("one_hot")
class OneHot(Preprocessor):
    """Spreads each column of categories out into one column of zeros and ones per category.

    A missing value gives zeros alone.

    Args:
        columns: which; all columns of categories where they are left out.
    """

    learned = ("sizes",)

    def __init__(self, columns: list[str] | None = None) -> None:
        self.columns = columns
        self.sizes: list[int] | None = None

    def describe(self, info: Array) -> Array:
        known = dict(zip(info.names, info.categories, strict=True)) if info.categories else {}
        if not any(known.values()):
            raise ValueError("one_hot takes columns of categories, and the features have none.")
        for name in self.columns or ():
            if not known.get(name):
                having = ", ".join(n for n, categories in known.items() if categories)
                raise ValueError(f"{name} is no column of categories. Those are: {having}.")
        chosen = self.columns or list(known)
        self.sizes = [len(known[name]) if name in chosen else 0 for name in info.names]
        names: list[str] = []
        categories: list[tuple[str, ...]] = []
        for name, size in zip(info.names, self.sizes, strict=True):
            names += [f"{name}={value}" for value in known[name]] if size else [name]
            categories += [()] * size if size else [known[name]]
        return replace(info, shape=(len(names),), names=tuple(names), categories=tuple(categories))

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        """Learn nothing: the description of the features names the categories."""

    def transform(self, features: Samples) -> Tensor:
        if self.sizes is None:
            raise ValueError("one_hot does not know the categories. Call describe first.")
        rows = as_tensor(features, "one_hot")
        parts = []
        for column, size in enumerate(self.sizes):
            values = rows[:, column, None]
            parts.append((values == torch.arange(size)).to(rows.dtype) if size else values)
        return torch.cat(parts, dim=1)

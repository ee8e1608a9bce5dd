"""Tables: columns of numbers and of categories, with missing values, read in batches of rows."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, ClassLabel, DataSource, classes, datasets, numbers
from loopwright.extras import require

Task = Literal["auto", "classification", "regression"]

_MOST_CATEGORIES = 1000
_MOST_INTEGER_CLASSES = 20


class _Table(DataSource):
    """Turns the columns of a table into one row of float32 per sample.

    A number is itself, a category its index among the sorted texts of the column, a missing value
    NaN. The table is read once from end to end to learn the categories and to count the rows.
    """

    extra = "tables"

    def __init__(
        self,
        path: str | None,
        target: str,
        features: list[str] | None,
        categories: list[str],
        task: Task,
    ) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None and not self.path.is_file():
            raise ValueError(f"There is no file {path}. Check the path.")
        self._target = target
        self._features = features
        self._as_text = {*categories, *([target] if task == "classification" else [])}
        self._task = task
        self._described: tuple[Array, Array, int] | None = None
        self._encoded: _Forward | None = None

    @abstractmethod
    def _schema(self) -> Any:
        """Return the arrow schema of the file."""

    @abstractmethod
    def _batches(self, columns: list[str]) -> Iterator[Any]:
        """Give the rows in order, as record batches with these columns."""

    @property
    def features_info(self) -> Array:
        return self._describe()[0]

    @property
    def labels_info(self) -> Array:
        return self._describe()[1]

    def __len__(self) -> int:
        return self._describe()[2]

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if self._encoded is None or start < self._encoded.position:
            self._encoded = _Forward(self._encode(batch) for batch in self._batches(self._columns))
        features, labels = self._encoded.take(start, stop)
        return features, labels

    def _encode(self, batch: Any) -> tuple[Tensor, Tensor]:
        features, labels, _ = self._describe()
        columns = [
            encode_column(batch[name], known)
            for name, known in zip(features.names, features.categories, strict=True)
        ]
        names = labels.names if isinstance(labels, ClassLabel) else ()
        target = encode_column(batch[self._target], names)
        if np.isnan(target).any():
            raise ValueError(
                f"{self.path}: {int(np.isnan(target).sum())} rows or more have no {self._target}. "
                "Remove rows without a target."
            )
        label = torch.tensor(target)
        label = label.long() if names else label.float()[:, None]
        return torch.from_numpy(np.stack(columns, axis=1)).float(), label

    @property
    def _columns(self) -> list[str]:
        return [*self._describe()[0].names, self._target]

    def _describe(self) -> tuple[Array, Array, int]:
        if self._described is None:
            self._described = self._scan()
        return self._described

    def _scan(self) -> tuple[Array, Array, int]:
        self.download_and_prepare()
        known = list(self._schema().names)
        names = self._features or [name for name in known if name != self._target]
        for name in (*names, self._target, *self._as_text):
            if name not in known:
                raise ValueError(f"{self.path} has no column {name!r}. It has: {', '.join(known)}.")
        seen: dict[str, set[str]] = {}
        integers: set[int] = set()
        num_rows = 0
        for batch in self._batches([*names, self._target]):
            num_rows += batch.num_rows
            for name in (*names, self._target):
                if self._is_text(name, batch[name].type):
                    self._learn(name, batch[name], seen.setdefault(name, set()))
            integers |= self._integers_in(batch[self._target], integers)
        if not num_rows:
            raise ValueError(f"{self.path} has no rows.")
        table = numbers(len(names))
        categories = tuple(tuple(sorted(seen.get(name, ()))) for name in names)
        features = Array(table.shape, table.dtype, tuple(names), categories)
        return features, self._describe_target(seen.get(self._target), integers), num_rows

    def _describe_target(self, texts: set[str] | None, integers: set[int]) -> Array:
        if self._task == "regression":
            if texts is not None:
                raise ValueError(f"{self._target} holds text, and the task is regression.")
            return numbers(1)
        if texts is not None:
            return classes(_in_order(texts))
        if 0 < len(integers) <= _MOST_INTEGER_CLASSES:
            return classes([str(value) for value in sorted(integers)])
        return numbers(1)

    def _is_text(self, name: str, kind: Any) -> bool:
        types = require("pyarrow.types", "tables")
        if types.is_nested(kind) or types.is_binary(kind):
            raise ValueError(
                f"{self.path}: column {name} holds {kind}; expected numbers or text. Leave it out "
                "with features."
            )
        if types.is_boolean(kind) and name == self._target:
            return self._task != "regression"
        is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
        return is_text or name in self._as_text

    def _learn(self, name: str, column: Any, seen: set[str]) -> None:
        seen.update(text for text in as_text(column).unique().to_pylist() if text is not None)
        if len(seen) > _MOST_CATEGORIES:
            raise ValueError(
                f"{self.path}: column {name} holds more than {_MOST_CATEGORIES} different texts, "
                "too many for categories. Leave it out with features."
            )

    def _integers_in(self, column: Any, integers: set[int]) -> set[int]:
        types = require("pyarrow.types", "tables")
        is_whole = types.is_integer(column.type) and self._task == "auto"
        if not is_whole or len(integers) > _MOST_INTEGER_CLASSES:
            return set()
        return {value for value in column.unique().to_pylist() if value is not None}


def as_text(column: Any) -> Any:
    """Return an arrow column as text; numbers and truth values as they are written."""
    return column.cast(require("pyarrow", "tables").string())


def _in_order(texts: Iterable[str]) -> list[str]:
    """Return texts sorted, whole numbers among themselves by their size."""
    return sorted(
        texts, key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text)
    )


def encode_column(column: Any, categories: Sequence[str]) -> np.ndarray:
    """Return an arrow column as float64: numbers, or indices of categories; NaN where missing.

    A text that is none of the categories is missing too.
    """
    pyarrow = require("pyarrow", "tables")
    types, compute = pyarrow.types, require("pyarrow.compute", "tables")
    if categories:
        column = compute.index_in(as_text(column), value_set=pyarrow.array(categories))
    elif types.is_temporal(column.type):
        column = column.cast(pyarrow.timestamp("ms")).cast(pyarrow.int64())
    elif types.is_boolean(column.type):
        column = column.cast(pyarrow.uint8())
    values: np.ndarray = column.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
    return values


def encode_rows(rows: Sequence[Mapping[str, Any]], info: Array) -> Tensor:
    """Return rows of a table as the data set that `info` describes gives them, float32.

    Args:
        rows: for each sample its values by column; what is left out, None, or no known category
            is missing (NaN).
        info: the description of the features.

    Raises:
        ValueError: a value is no number where one is expected, or a column is not known.
    """
    table = torch.full((len(rows), len(info.names)), torch.nan)
    for index, row in enumerate(rows):
        if unknown := row.keys() - set(info.names):
            raise ValueError(
                f"Row {index} has a column {sorted(unknown)[0]!r}. Known: {', '.join(info.names)}."
            )
        for column, (name, known) in enumerate(zip(info.names, info.categories, strict=True)):
            value = row.get(name)
            if known:
                value = known.index(str(value)) if str(value) in known else None
            if value is not None:
                try:
                    table[index, column] = float(value)
                except (TypeError, ValueError):
                    raise ValueError(
                        f"Row {index}: {name} is {value!r}, expected a number."
                    ) from None
    return table


class _Forward:
    """Gives ranges of rows out of a stream of batches, each range behind the one before."""

    def __init__(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self._batches = batches
        self._held: tuple[Tensor, Tensor] | None = None
        self.position = 0
        """The first row that can still be given."""

    def take(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        taken: list[tuple[Tensor, Tensor]] = []
        while self.position < stop:
            batch = self._held if self._held is not None else next(self._batches, None)
            if batch is None:
                break
            begin, end = max(0, start - self.position), stop - self.position
            taken.append((batch[0][begin:end], batch[1][begin:end]))
            used = min(end, len(batch[0]))
            self._held = (batch[0][used:], batch[1][used:]) if used < len(batch[0]) else None
            self.position += used
        return torch.cat([x for x, _ in taken]), torch.cat([y for _, y in taken])


@datasets.register("csv")
class Csv(_Table):
    """Reads a table from a CSV file with a header.

    Types are taken from the first megabyte; whole numbers count as numbers, other columns as
    categories. Empty fields are missing.

    Args:
        path: the file.
        target: the column to predict.
        features: the columns to predict it from; all others where they are left out.
        categories: columns that are categories although they look like numbers.
        task: classification makes every value of the target a class, regression takes it as a
            number; auto does the first for texts, truth values, and whole numbers of which there
            are at most 20.
        delimiter: what stands between fields.
        missing: what else stands for a missing value.
    """

    def __init__(
        self,
        path: str | None,
        target: str,
        features: list[str] | None = None,
        categories: list[str] | None = None,
        task: Task = "auto",
        delimiter: str = ",",
        missing: Sequence[str] = ("", "?", "NA", "NaN", "nan", "null"),
    ) -> None:
        super().__init__(path, target, features, categories or [], task)
        self._delimiter = delimiter
        self._missing = list(missing)
        self._types: dict[str, Any] = {}

    def _schema(self) -> Any:
        pyarrow = require("pyarrow", "tables")
        with self._opened(None) as reader:
            schema = reader.schema
        for field in schema:
            if field.name in self._as_text or pyarrow.types.is_null(field.type):
                self._types[field.name] = pyarrow.string()
            elif pyarrow.types.is_integer(field.type) and field.name != self._target:
                self._types[field.name] = pyarrow.float64()  # a later row may hold a fraction
        return schema

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        pyarrow = require("pyarrow", "tables")
        try:
            with self._opened(columns) as reader:
                yield from reader
        except pyarrow.ArrowInvalid as error:
            raise ValueError(
                f"{self.path}: {error}. A column that holds both numbers and text has to be listed "
                "in categories, or left out with features."
            ) from error

    @contextmanager
    def _opened(self, columns: list[str] | None) -> Iterator[Any]:
        csv = require("pyarrow.csv", "tables")
        convert = csv.ConvertOptions(
            include_columns=columns,
            column_types=self._types,
            null_values=self._missing,
            strings_can_be_null=True,
        )
        parse = csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True)
        try:
            reader = csv.open_csv(self.path, parse_options=parse, convert_options=convert)
        except require("pyarrow", "tables").ArrowInvalid as error:
            raise ValueError(f"{self.path} is no table: {error}.") from error
        with reader:
            yield reader


@datasets.register("parquet")
class Parquet(_Table):
    """Reads a table from a Parquet file.

    Args:
        path: the file.
        target: the column to predict.
        features: the columns to predict it from; all others where they are left out.
        categories: columns that are categories although they hold numbers.
        task: classification makes every value of the target a class, regression takes it as a
            number; auto does the first for texts, truth values, and whole numbers of which there
            are at most 20.
    """

    _ROWS = 8192

    def __init__(
        self,
        path: str,
        target: str,
        features: list[str] | None = None,
        categories: list[str] | None = None,
        task: Task = "auto",
    ) -> None:
        super().__init__(path, target, features, categories or [], task)

    def _schema(self) -> Any:
        with self._opened() as file:
            return file.schema_arrow

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        with self._opened() as file:
            yield from file.iter_batches(batch_size=self._ROWS, columns=columns)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        parquet = require("pyarrow.parquet", "tables")
        try:
            file = parquet.ParquetFile(self.path)
        except require("pyarrow", "tables").ArrowInvalid as error:
            raise ValueError(f"{self.path} is no Parquet file: {error}.") from error
        with file:
            yield file

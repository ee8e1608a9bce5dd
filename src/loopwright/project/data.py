"""The data of a project: files of samples, data sets over them, and what makes their batches."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import TensorDataset

from loopwright.checkpoint import write_aside
from loopwright.datasets import datasets
from loopwright.datasets.splits import split_indices
from loopwright.errors import ConfigurationError
from loopwright.extras import require
from loopwright.loaders import make_loader

Tokenizer = Callable[[list[str]], Tensor]
"""Turns texts into token numbers, [texts, length]."""


def write_samples(path: str | Path, features: Any, targets: Any) -> Path:
    """Write samples to an `.npz` or `.parquet` file, whole or not at all.

    Args:
        path: the file; its ending decides the format.
        features: an array or tensor [samples, ...], or a list of texts.
        targets: an array or tensor [samples, ...].

    Raises:
        ConfigurationError: the ending is another one.
    """
    path = Path(path)
    arrays = {"features": np.asarray(features), "label": np.asarray(targets)}
    write = {".npz": _write_npz, ".parquet": _write_parquet}.get(path.suffix)
    if write is None:
        raise ConfigurationError(f"{path} ends in {path.suffix!r}; expected .npz or .parquet.")
    write_aside(path, lambda aside: write(aside, arrays))
    return path


def read_samples(path: str | Path) -> tuple[Any, np.ndarray]:
    """Return features (an array, or a list of texts) and targets that `write_samples` wrote.

    Raises:
        ConfigurationError: there is no such file, or it is another one.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}. Check the path.")
    read = {".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix)
    if read is None:
        raise ConfigurationError(
            f"{path} ends in {path.suffix!r}; expected .npz or .parquet of write_samples. Give a "
            "table as dataset_path to have it divided."
        )
    arrays = read(path)
    features = arrays["features"]
    return (features.tolist() if features.dtype.kind == "U" else features), arrays["label"]


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # takes arrays by name


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        _check_arrays(path, archive.files)
        return {name: archive[name] for name in ("features", "label")}


def _check_arrays(path: Path, found: list[str]) -> None:
    if missing := {"features", "label"} - set(found):
        raise ConfigurationError(
            f"{path} holds {', '.join(found)}; expected the arrays features and label "
            f"({', '.join(sorted(missing))} missing)."
        )


def _write_parquet(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one column of rows each, and their shapes beside them."""
    pyarrow = require("pyarrow", "tables")
    columns, metadata = {}, {}
    for name, array in arrays.items():
        rows = array.reshape(len(array), -1)
        columns[name] = pyarrow.array(list(rows)) if array.ndim > 1 else pyarrow.array(array)
        metadata[name] = "x".join(map(str, array.shape[1:]))
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    require("pyarrow.parquet", "tables").write_table(table, path)


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    table = require("pyarrow.parquet", "tables").read_table(path)
    _check_arrays(path, table.column_names)
    shapes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    arrays = {}
    for name in ("features", "label"):
        shape = tuple(int(size) for size in shapes.get(name, "").split("x") if size)
        column = table[name].combine_chunks()
        if shape:
            arrays[name] = column.flatten().to_numpy().reshape(len(column), *shape)
        else:
            arrays[name] = np.asarray(column.to_pylist())
    return arrays


class CustomDataset(TensorDataset):
    """Holds samples in memory: a sample is a row of `features` and one of `targets`.

    Batches are taken from it by index, whole ones at a time.

    Args:
        features: [samples, ...]; texts where a tokenizer is given.
        targets: [samples, ...]; integers are classes and become int64, other numbers float32.
        tokenizer: turns texts into token numbers.
    """

    def __init__(self, features: Any, targets: Any, tokenizer: Tokenizer | None = None) -> None:
        inputs = tokenizer(list(features)) if tokenizer is not None else _as_tensor(features)
        targets = _as_tensor(targets)
        super().__init__(inputs, targets if targets.is_floating_point() else targets.long())

    @classmethod
    def from_file(cls, path: str | Path, tokenizer: Tokenizer | None = None) -> "CustomDataset":
        """Return the samples of a file of `write_samples`."""
        return cls(*read_samples(path), tokenizer=tokenizer)

    @property
    def features(self) -> Tensor:
        """What the model gets, [samples, ...]."""
        return self.tensors[0]

    @property
    def targets(self) -> Tensor:
        """What it should give, [samples, ...]."""
        return self.tensors[1]


def _as_tensor(values: Any) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    return tensor.float() if tensor.dtype == torch.float64 else tensor


class IterableDataset(TorchIterableDataset[tuple[Tensor, Tensor]]):
    """Gives the samples of one file after the other, with one file in memory at a time.

    Args:
        paths: files of `write_samples`, or one of them.
        tokenizer: turns texts into token numbers.
    """

    def __init__(
        self, paths: str | Path | list[str | Path], tokenizer: Tokenizer | None = None
    ) -> None:
        self.paths = [paths] if isinstance(paths, str | Path) else list(paths)
        self.tokenizer = tokenizer
        self._length: int | None = None

    def __len__(self) -> int:
        """Return the number of samples; the first call reads the files, one after the other."""
        if self._length is None:
            self._length = sum(len(read_samples(path)[1]) for path in self.paths)
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for path in self.paths:
            yield from zip(*CustomDataset.from_file(path, self.tokenizer).tensors, strict=True)


class DataModule:
    """Holds the three data sets of a project and makes their loaders.

    Args:
        model_config: has `batch_size`, `num_workers` and `seed`.
        train_set: data in memory, or any data set of torch.
        val_set: likewise.
        test_set: likewise.
        data_path: a file to divide where no sets are given: `.npz` or `.parquet` of
            `write_samples`, or a table with the column `model_config["target"]` ("label").
        file_type: "csv", "parquet" or "npz".
        test_set_out_of_dataset: whether the test set comes from elsewhere. What training leaves of
            the file is then all for validation; otherwise validation and test halve it.
        split_percent: the share of the file that is for training.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        train_set: Any = None,
        val_set: Any = None,
        test_set: Any = None,
        data_path: str | Path | None = None,
        file_type: str = "csv",
        test_set_out_of_dataset: bool = False,
        split_percent: float = 0.8,
    ) -> None:
        self.model_config = model_config
        self.train_set, self.val_set, self.test_set = train_set, val_set, test_set
        if data_path is not None:
            self._split(data_path, file_type, test_set_out_of_dataset, split_percent)

    def _split(
        self, path: str | Path, file_type: str, test_elsewhere: bool, split_percent: float
    ) -> None:
        features, targets = read_table(path, file_type, self.model_config.get("target", "label"))
        rest = round(1 - split_percent, 12)
        shares = {"train": split_percent, "validation": rest if test_elsewhere else rest / 2}
        if not test_elsewhere:
            shares["test"] = rest / 2
        parts = split_indices(len(targets), shares, shuffle=True, seed=self.model_config["seed"])
        sets = {
            name: CustomDataset(features[rows.numpy()], targets[rows.numpy()])
            for name, rows in parts.items()
        }
        self.train_set, self.val_set = sets["train"], sets["validation"]
        self.test_set = sets.get("test", self.test_set)

    def train_dataloader(self) -> Any:
        """Return the loader of training batches, in an order of the seed and the epoch."""
        return self._loader(self.train_set, "train", shuffle=True)

    def val_dataloader(self) -> Any:
        """Return the loader of validation batches."""
        return self._loader(self.val_set, "validation")

    def test_dataloader(self) -> Any:
        """Return the loader of test batches."""
        return self._loader(self.test_set, "test")

    def predict_dataloader(self) -> Any:
        """Return the loader of samples to predict, which are those of the test set."""
        return self.test_dataloader()

    def _loader(self, dataset: Any, part: str, *, shuffle: bool = False) -> Any:
        if dataset is None:
            raise ConfigurationError(f"The data module holds no {part} set. Give it one.")
        options = {
            "batch_size": self.model_config["batch_size"],
            "num_workers": self.model_config["num_workers"],
            "shuffle": shuffle,
        }
        loader = make_loader(dataset, options, given={"batch_size"}, collate_fn=None)
        loader.seed = self.model_config["seed"]
        return loader


def read_table(path: str | Path, file_type: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features and targets of a file: "npz", or a table ("csv" or "parquet").

    Texts of a table become numbers of categories, and a target of texts or few integers classes.

    Raises:
        ConfigurationError: the file is not there, or its type is unknown.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"There is no file {path}. Check the path.")
    if file_type == "npz":
        features, targets = read_samples(path)
        return np.asarray(features), targets
    if file_type not in ("csv", "parquet"):
        raise ConfigurationError(f"file_type is {file_type!r}; expected csv, parquet or npz.")
    source: Any = datasets.get(file_type)
    features, targets = source(str(path), target=target).tensors()
    return features.numpy(), targets.numpy()


class Data:
    """Holds the data sets of a project and everything about them.

    A subclass says how files become data sets (`load_datasets`) and which module holds them
    (`create_data_module`).

    Args:
        model_config: has `batch_size`, `num_workers` and `seed`.
        load_datasets: whether to load the data sets and make the data module now.
        training_path: the file of the training set.
        validation_path: the file of the validation set.
        test_dataset_path: the file of the test set.
        tokenizer: that of the model, for texts.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        load_datasets: bool = False,
        training_path: str | Path | None = None,
        validation_path: str | Path | None = None,
        test_dataset_path: str | Path | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.model_config = model_config
        self.tokenizer = tokenizer
        self.dataset_train: Any = None
        self.dataset_validation: Any = None
        self.dataset_test: Any = None
        self.data_module: Any = None
        if load_datasets:
            self.load_datasets(training_path, validation_path, test_dataset_path)
            self.create_data_module()

    def load_datasets(
        self,
        training: str | Path | None,
        validation: str | Path | None,
        test: str | Path | None,
    ) -> None:
        """Set `dataset_train`, `dataset_validation` and `dataset_test`; a path may be None."""
        raise NotImplementedError(_missing(self, "load_datasets"))

    def create_data_module(self) -> Any:
        """Set `data_module` to a module that holds the three sets, and return it."""
        raise NotImplementedError(_missing(self, "create_data_module"))

    def get_data_module(self) -> Any:
        """Return the data module that was made."""
        return self.data_module


def _missing(owner: object, method: str) -> str:
    return f"{type(owner).__name__} has no {method}. Implement it: {method} is the project's own."

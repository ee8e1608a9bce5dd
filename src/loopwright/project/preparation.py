"""Preparing a data set: reading it whole, dividing it, and writing its three parts."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.datasets.splits import split_indices
from loopwright.errors import ConfigurationError
from loopwright.project.data import read_table, write_samples
from loopwright.project.settings import DATASET_CONFIG, check_ratios
from loopwright.sealed import find_duplicates

PARTS = {"train": "train", "validation": "val", "test": "test"}
"""How the files of the parts begin."""


class DatasetPreparation:
    """Divides a data set into training, validation and test, and writes a file of each.

    Args:
        dataset_path: a table (`.csv`, `.parquet`) or an `.npz`; None for `load_embedded`.
        save_datasets: whether the files are kept; otherwise they go to `save_path` all the same,
            which is then the caller's to remove.
        save_path: the folder of the three files.
        dataset_config: has the three ratios, `file_format` (npz or parquet), `target`,
            `drop_test_duplicates`, and the `seed` of the order.
    """

    def __init__(
        self,
        dataset_path: str | Path | None,
        save_datasets: bool,
        save_path: str | Path,
        dataset_config: Mapping[str, Any],
    ) -> None:
        self.dataset_path = dataset_path
        self.save_datasets = save_datasets
        self.save_path = Path(save_path)
        self.dataset_config = DATASET_CONFIG | dict(dataset_config)

    def load_embedded(self) -> tuple[Any, Any]:
        """Return features and targets of the data that the project carries with it.

        Raises:
            ConfigurationError: the project carries none.
        """
        raise ConfigurationError(
            "There is no data: no paths were given, dataset_config['dataset_path'] is None, and "
            f"{type(self).__name__} has no load_embedded. Give one of them."
        )

    def load_dataset(self) -> tuple[Any, np.ndarray]:
        """Return all features (an array, or a list of texts) and all targets."""
        path = self.dataset_path
        if path is None:
            features, targets = self.load_embedded()
            return features, np.asarray(targets)
        file_type = Path(path).suffix.removeprefix(".")
        return read_table(path, file_type, self.dataset_config["target"])

    def split(self, num_samples: int) -> dict[str, np.ndarray]:
        """Return the rows of train, validation and test, shuffled by the seed."""
        ratios = check_ratios(self.dataset_config)
        seed = self.dataset_config.get("seed", 42)
        parts = split_indices(num_samples, ratios, shuffle=True, seed=seed)
        return {name: rows.numpy() for name, rows in parts.items()}

    def prepare_datasets(self) -> tuple[Path, Path, Path]:
        """Write the three files, and return their paths: training, validation, test.

        They lie in folders named after what is in them, so that the same data, ratios and seed
        give the same files. That of the test set is its own: its seal stays with it whatever the
        others hold.
        """
        features, targets = self.load_dataset()
        parts = self.split(len(targets))
        if self.dataset_config["drop_test_duplicates"]:
            parts = _without_duplicates(parts, features)
        chosen = {name: (_take(features, rows), targets[rows]) for name, rows in parts.items()}
        test = self.save_path / f"test-{_digest(chosen['test'])}"
        others = self.save_path / f"dataset-{_digest(chosen['train'] + chosen['validation'])}"
        ending = self.dataset_config["file_format"]
        folders = {"train": others, "validation": others, "test": test}
        paths = {name: folders[name] / f"{PARTS[name]}_dataset.{ending}" for name in PARTS}
        for name, path in paths.items():
            if not path.exists():
                write_samples(path, *chosen[name])
        return paths["train"], paths["validation"], paths["test"]


def _digest(arrays: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:8]


def _take(features: Any, rows: np.ndarray) -> Any:
    return [features[row] for row in rows] if isinstance(features, list) else features[rows]


def _without_duplicates(parts: dict[str, np.ndarray], features: Any) -> dict[str, np.ndarray]:
    """Leave out of training and validation what the test set holds, or nearly holds."""
    test = _take(features, parts["test"])
    kept = {}
    for name in ("train", "validation"):
        found = find_duplicates(_take(features, parts[name]), test)
        kept[name] = np.delete(parts[name], found.rows)
    return {**kept, "test": parts["test"]}

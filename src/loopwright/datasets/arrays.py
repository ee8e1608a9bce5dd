"""Arrays in a file: npz and HDF5, read a range of rows at a time."""

import zipfile
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, DataSource, as_labels, datasets
from loopwright.extras import require


class _Arrays(DataSource):
    """Reads features and labels, one row per sample, from two named arrays of a file."""

    def __init__(
        self,
        path: str,
        features: str = "features",
        labels: str = "labels",
        classes: list[str] | None = None,
        channels_last: bool = False,
        tokens: bool = False,
    ) -> None:
        self.path = Path(path)
        self._features = self._open(features)
        labels_array = self._open(labels)
        if len(self._features.shape) == 0 or self._features.shape[:1] != labels_array.shape[:1]:
            raise ValueError(
                f"{path}: {features} has the shape {tuple(self._features.shape)} and {labels} "
                f"{tuple(labels_array.shape)}; expected one row per sample in both."
            )
        self._labels, self._labels_info = as_labels(labels_array[0 : len(self)], classes)
        self._channels_last = channels_last
        self._dtype = _dtype_for(self._features.dtype, tokens=tokens)

    @abstractmethod
    def _open(self, name: str) -> Any:
        """Return something with `shape` and `dtype` that gives rows by a slice."""

    @property
    def features_info(self) -> Array:
        shape = tuple(self._features.shape[1:])
        if self._channels_last:
            shape = (shape[-1], *shape[:-1])
        is_image = self._dtype == torch.uint8
        return Array(shape, self._dtype, value_range=(0.0, 255.0) if is_image else None)

    @property
    def labels_info(self) -> Array:
        return self._labels_info

    def __len__(self) -> int:
        return int(self._features.shape[0])

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(np.asarray(self._features[start:stop])).to(self._dtype)
        if self._channels_last:
            rows = rows.movedim(-1, 1).contiguous()
        return rows, self._labels[start:stop]


def _dtype_for(dtype: np.dtype[Any], *, tokens: bool) -> torch.dtype:
    if dtype.kind not in "fiub":
        raise ValueError(f"Features are {dtype}; expected numbers.")
    if tokens:
        return torch.int64
    return torch.uint8 if dtype == np.uint8 else torch.float32


@datasets.register("npz")
class Npz(_Arrays):
    """Reads arrays that numpy's `savez` or `savez_compressed` wrote; pickled objects are refused.

    Args:
        path: the file.
        features: the name of the array of features, one row per sample.
        labels: the name of the array of labels: integers and texts name classes.
        classes: names of the classes by index; what occurs in the labels where they are left out.
        channels_last: whether images are (height, width, channels); they are turned.
        tokens: whether features are numbers of tokens, int64, rather than quantities.
    """

    def _open(self, name: str) -> "_NpyMember":
        return _NpyMember(self.path, name)


class _NpyMember:
    """Reads ranges of rows of one array in an npz file without reading the rest."""

    def __init__(self, path: Path, name: str) -> None:
        self._archive = zipfile.ZipFile(path)
        if f"{name}.npy" not in self._archive.namelist():
            known = ", ".join(n.removesuffix(".npy") for n in self._archive.namelist())
            raise ValueError(f"{path} holds no array {name!r}. It holds: {known}.")
        self._file = self._archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(self._file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"{path}: {name} is written in version {version}, which is unknown.")
        self.shape, in_columns, self.dtype = read_header(self._file)
        if self.dtype.hasobject:
            raise ValueError(
                f"{path}: {name} holds pickled objects, which are never loaded. Save numbers or "
                "fixed-width texts."
            )
        if in_columns and len(self.shape) > 1:
            raise ValueError(
                f"{path}: {name} is in Fortran order. Save np.ascontiguousarray of it."
            )
        self._begin = self._file.tell()

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        bytes_per_row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self._file.seek(self._begin + start * bytes_per_row)
        content = bytearray(self._file.read((stop - start) * bytes_per_row))
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])


@datasets.register("hdf5")
class Hdf5(_Arrays):
    """Reads arrays of an HDF5 file; names may lead through groups, such as train/images.

    Args:
        path: the file.
        features: the name of the array of features, one row per sample.
        labels: the name of the array of labels: integers and texts name classes.
        classes: names of the classes by index; what occurs in the labels where they are left out.
        channels_last: whether images are (height, width, channels); they are turned.
        tokens: whether features are numbers of tokens, int64, rather than quantities.
    """

    extra = "hdf5"

    def _open(self, name: str) -> Any:
        h5py = require("h5py", "hdf5")
        file = h5py.File(self.path, "r")
        if not isinstance(file.get(name), h5py.Dataset):
            raise ValueError(f"{self.path} holds no array {name!r}. It holds: {', '.join(file)}.")
        found = file[name]
        return found.asstr() if h5py.check_string_dtype(found.dtype) else found

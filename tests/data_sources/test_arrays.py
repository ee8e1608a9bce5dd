"""Tests of arrays in npz and HDF5 files: ranges of rows, and nothing that is pickled."""

from pathlib import Path

import numpy as np
import pytest
import torch

from loopwright.datasets import ClassLabel, DataSource, Hdf5, Npz

IMAGES = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
KINDS = np.array([2, 0, 1, 1, 0, 2])


def write(path: Path, **arrays: np.ndarray) -> str:
    if path.suffix == ".npz":
        np.savez_compressed(path, allow_pickle=True, **arrays)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return str(path)


@pytest.fixture(params=["npz", "h5"])
def kind(request: pytest.FixtureRequest) -> tuple[str, type[DataSource]]:
    return request.param, Npz if request.param == "npz" else Hdf5


def test_ranges_of_rows_in_any_order(kind: tuple[str, type[DataSource]], tmp_path: Path) -> None:
    path = write(tmp_path / f"data.{kind[0]}", features=IMAGES, labels=KINDS)
    source = kind[1](path, channels_last=True)  # type: ignore[call-arg]
    expected = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    for start, stop in ((4, 6), (0, 3), (2, 5)):
        features, labels = source.read(start, stop)
        assert torch.equal(features, expected[start:stop])  # type: ignore[arg-type]
        assert labels.tolist() == KINDS[start:stop].tolist()
    assert source.features_info.shape == (3, 4, 5)
    assert source.features_info.dtype == torch.uint8
    assert source.features_info.value_range == (0.0, 255.0)
    assert isinstance(source.labels_info, ClassLabel)
    assert source.labels_info.names == ("0", "1", "2")
    assert len(source) == 6
    assert source[-1][1] == 2


def test_texts_and_numbers_as_labels(kind: tuple[str, type[DataSource]], tmp_path: Path) -> None:
    rows = np.ones((3, 2))
    names = np.array(["b", "a", "b"]).astype("S1" if kind[0] == "h5" else "U1")
    if kind[0] == "npz":
        source = kind[1](write(tmp_path / "text.npz", features=rows, labels=names))  # type: ignore[call-arg]
        assert source.labels_info.names == ("a", "b")
        assert source.tensors()[1].tolist() == [1, 0, 1]
    path = write(tmp_path / f"number.{kind[0]}", features=rows, labels=np.array([0.5, 1, 2]))
    source = kind[1](path)  # type: ignore[call-arg]
    assert source.labels_info.shape == (1,)
    assert source.tensors()[1].tolist() == [[0.5], [1.0], [2.0]]
    assert source.features_info.dtype == torch.float32


def test_pickled_objects_are_refused_and_not_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "objects.npz", features=np.array([{}, {}]), labels=KINDS[:2])
    with pytest.raises(ValueError, match="pickled objects, which are never loaded"):
        Npz(path)


def test_what_does_not_fit_is_told(kind: tuple[str, type[DataSource]], tmp_path: Path) -> None:
    path = write(tmp_path / f"data.{kind[0]}", features=IMAGES, labels=KINDS[:5])
    with pytest.raises(ValueError, match="one row per sample"):
        kind[1](path)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="no array 'labls'. It holds: features, labels"):
        kind[1](path, labels="labls")  # type: ignore[call-arg]
    path = write(tmp_path / f"more.{kind[0]}", features=IMAGES, labels=KINDS)
    with pytest.raises(ValueError, match="from 0 to 2; expected 0 to 1"):
        kind[1](path, classes=["a", "b"])  # type: ignore[call-arg]

"""Tests of public data sets: small copies in their published forms, a server, and real data."""

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loopwright.datasets import ClassLabel, DownloadManager, make_source
from loopwright.datasets.downloaded import CaliforniaHousing, Mnist

DATA = Path(os.environ.get("LOOPWRIGHT_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write_idx(folder: Path, count: int = 6) -> dict[str, bytes]:
    """Write the four files of MNIST's form and return their contents."""
    random = np.random.default_rng(0)
    contents = {}
    for part in ("train", "t10k"):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">u4").tobytes()
        contents[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(header + pixels.tobytes())
        header = bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes()
        contents[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(header + labels.tobytes())
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_G_43_and_G_73_files_come_by_the_download_manager(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = write_idx(tmp_path / "served")
    sums = {name: f"sha256:{sha256(content).hexdigest()}" for name, content in contents.items()}
    monkeypatch.setattr(Mnist, "_url", server)
    monkeypatch.setattr(Mnist, "_files", sums)
    source = make_source("mnist", {})
    assert source.features_info.shape == (1, 28, 28)  # known before anything is fetched
    source.download_and_prepare(DownloadManager(tmp_path / "kept"))
    assert len(list((tmp_path / "kept").iterdir())) == 4
    assert len(source) == 12
    images, labels = source.read(4, 8)
    assert isinstance(images, Tensor)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [4, 5, 0, 1]
    given = make_source("mnist", {"path": str(tmp_path / "served")})
    assert torch.equal(given.tensors()[0][4:8], images)  # type: ignore[arg-type]


def test_archives_are_fetched_and_unpacked(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = (
        b"-122.2,37.9,41,880,129,322,126,8.3,452600\n"
        b"-122.2,37.8,21,7099,1106,2401,1138,8.3,358500\n"
    )
    archive = tmp_path / "served" / "housing.tgz"
    with tarfile.open(archive, "w:gz") as tarred:
        info = tarfile.TarInfo("CaliforniaHousing/cal_housing.data")
        info.size = len(table)
        tarred.addfile(info, io.BytesIO(table))
    monkeypatch.setattr(CaliforniaHousing, "_url", f"{server}housing.tgz")
    monkeypatch.setattr(
        CaliforniaHousing, "_checksum", f"sha256:{sha256(archive.read_bytes()).hexdigest()}"
    )
    source = make_source("california_housing", {})
    source.download_and_prepare(DownloadManager(tmp_path / "kept"))
    features, labels = source.tensors()
    assert features.shape == (2, 8)  # type: ignore[union-attr]
    assert source.features_info.names[0] == "longitude"
    torch.testing.assert_close(labels, torch.tensor([[4.526], [3.585]]))


def write_image(path: Path, size: tuple[int, int] = (32, 32), value: int = 0) -> None:
    pillow = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.new("RGB", size, (value, 0, 0)).save(path)


def test_both_forms_of_cifar10(tmp_path: Path) -> None:
    records = np.random.default_rng(0).integers(0, 256, (12, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(12) % 10
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    (tmp_path / "binary/cifar-10-batches-bin").mkdir(parents=True)
    for name, rows in zip(names, records.reshape(6, 2, 3073), strict=True):
        (tmp_path / "binary/cifar-10-batches-bin" / name).write_bytes(rows.tobytes())
    source = make_source("cifar10", {"path": str(tmp_path / "binary")})
    images, labels = source.read(3, 5)
    assert labels.tolist() == [3, 4]
    assert images[0].flatten().tolist() == records[3, 1:].tolist()
    for part, count in (("train", 2), ("test", 1)):
        for name in source.labels_info.names:
            for i in range(count):
                write_image(tmp_path / "files" / part / name / f"{i}.png")
    source = make_source("cifar10", {"path": str(tmp_path / "files")})
    images, labels = source.tensors()
    assert images.shape == (30, 3, 32, 32)  # type: ignore[union-attr]
    assert labels[-10:].tolist() == list(range(10))


def test_both_forms_of_dogs_vs_cats(tmp_path: Path) -> None:
    for i, kind in enumerate(("Cat", "Dog")):
        write_image(tmp_path / f"zip/PetImages/{kind}/0.jpg", (5 + i, 4))
        write_image(tmp_path / f"kaggle/train/{kind.lower()}.{i}.jpg", (5 + i, 4))
    (tmp_path / "zip/PetImages/Cat/666.jpg").touch()
    for form in ("zip", "kaggle"):
        source = make_source("dogs_vs_cats", {"path": str(tmp_path / form)})
        images, labels = source.tensors()
        assert labels.tolist() == [0, 1]
        assert [tuple(each.shape) for each in images] == [(3, 4, 5), (3, 4, 6)]
    with pytest.raises(ValueError, match="holds none of PetImages, train"):
        len(make_source("dogs_vs_cats", {"path": str(tmp_path)}))


def test_tiny_imagenet_and_imdb(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    write_image(folder / "train/n2/images/a.JPEG", (64, 64))
    write_image(folder / "train/n1/images/a.JPEG", (64, 64))
    write_image(folder / "val/images/v.JPEG", (64, 64))
    (folder / "wnids.txt").write_text("n2\nn1\n")
    (folder / "val/val_annotations.txt").write_text("v.JPEG\tn2\t0\t0\t1\t1\n")
    for path in (tmp_path, folder):
        source = make_source("tiny_imagenet", {"path": str(path)})
        assert isinstance(source.labels_info, ClassLabel)
        assert source.labels_info.names == ("n1", "n2")
        assert source.tensors()[1].tolist() == [0, 1, 1]
    for part in ("train", "test"):
        for kind in ("pos", "neg", "unsup"):
            (tmp_path / f"aclImdb/{part}/{kind}").mkdir(parents=True)
            (tmp_path / f"aclImdb/{part}/{kind}/0_1.txt").write_text(f"{part} {kind}")
    source = make_source("imdb", {"path": str(tmp_path)})
    texts, labels = source.tensors()
    assert texts == ["train neg", "train pos", "test neg", "test pos"]
    assert labels.tolist() == [0, 1, 0, 1]


def test_titanic_has_its_types(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "titanic.csv"
    path.write_text(
        '"pclass","survived","name","sex","age","sibsp","parch","ticket","fare","cabin","embarked"\n'
        '1,1,"Allen, Miss","female",29,0,0,"24160",211.3375,"B5","S"\n'
        '3,0,"Abbing, Mr",male,?,0,0,"5547",?,?,"C"\n'
    )
    source = make_source("titanic", {"path": str(path)})
    assert source.features_info.names[:3] == ("pclass", "sex", "age")
    assert source.labels_info.names == ("0", "1")
    features, labels = source.tensors()
    assert labels.tolist() == [1, 0]
    assert features[1].isnan().tolist() == [False, False, True, False, False, True, False]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content",
    [b"nothing", gzip.compress(b"\x00\x00\x0d\x01" + bytes(8))],
    ids=["no archive", "no images"],
)
def test_a_file_of_another_form_is_told(content: bytes, tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="t10k-images.* is no file of MNIST's form"):
        len(make_source("mnist", {"path": str(tmp_path)}))


def needs(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"needs {DATA / name} (or below LOOPWRIGHT_DATA)")
    return DATA / name


def test_the_real_mnist_is_read() -> None:
    source = make_source("mnist", {"path": str(needs("mnist"))})
    images, labels = source.tensors()
    assert isinstance(images, Tensor)
    assert images.shape == (70_000, 1, 28, 28)
    assert float(images[:60_000].double().mean() / 255) == pytest.approx(0.1307, abs=1e-4)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


@pytest.mark.slow
def test_the_real_dogs_and_cats_train_as_the_document_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G-13, G-15: resized, augmented, from an archive of photographs in many sizes."""
    from loopwright.experiment import Experiment

    archive = needs("dogs-vs-cats-1600.tar.xz")
    with tarfile.open(archive) as tarred:
        chosen = [m for m in tarred if m.name.endswith((*(f".{i}.jpg" for i in range(40)),))]
        tarred.extractall(tmp_path, members=chosen, filter="data")
    (train,) = tmp_path.rglob("train")
    monkeypatch.chdir(tmp_path)
    spec: dict[str, Any] = {
        "dataset": {
            "dataset": {"type": "dogs_vs_cats", "path": str(train.parent)},
            "samples": {"train": 0.8, "test": 0.2},
            "preprocessors": [
                {"type": "image_resize", "width": 50, "height": 50},
                {"type": "divide", "factor": 255},
            ],
            "data_augmentors": [
                {"type": "random_color", "probability": 0.4, "min_factor": 0.2, "max_factor": 0.7}
            ],
        },
        "model": {"model": {"type": "cnn", "channels": [8]}, "training": {"epochs": 2}},
        "run": {"seed": 0, "device": "cpu"},
    }
    results = Experiment.from_dict(spec).train()
    assert results["steps"] == 4
    assert results["metrics"]["train_loss_epoch"] < 0.8

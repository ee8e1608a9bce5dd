"""Public data sets: fetched once with their checksums, or read from a copy of one's own."""

import gzip
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import (
    Array,
    ClassLabel,
    DataSource,
    Samples,
    classes,
    datasets,
    image,
    numbers,
)
from loopwright.datasets.downloads import DownloadManager
from loopwright.datasets.images import ImageFiles, images_in
from loopwright.datasets.tables import Csv
from loopwright.datasets.texts import LabelledTexts


class _Fetched(DataSource):
    """Finds its files below `path`, or where they are fetched to on first use."""

    _url: ClassVar[str]
    _checksum: ClassVar[str]
    path: Path | None

    def download_and_prepare(self, dl_manager: DownloadManager | None = None) -> None:
        if self.path is None:
            manager = dl_manager or DownloadManager()
            self.path = manager.download_and_extract(self._url, self._checksum)

    def _below(self, *names: str) -> Path:
        """Return the first of these that exists below the folder.

        Raises:
            ValueError: none does.
        """
        self.download_and_prepare()
        assert self.path is not None
        for name in names:
            if (self.path / name).exists():
                return self.path / name
        raise ValueError(f"{self.path} holds none of {', '.join(names)}. Check the path.")


class _InMemory(_Fetched):
    """Is read as a whole on first use."""

    def __init__(self, path: str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._tensors: tuple[Tensor, Tensor] | None = None

    def _read(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._all()[1])

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        features, labels = self._all()
        return features[start:stop], labels[start:stop]

    def _all(self) -> tuple[Tensor, Tensor]:
        if self._tensors is None:
            self._tensors = self._read()
        return self._tensors


class _Idx(_InMemory):
    """Reads the four files of MNIST's form: 60,000 rows for training, then 10,000 for testing."""

    _files: ClassVar[dict[str, str]]
    _names: ClassVar[tuple[str, ...]]

    @property
    def features_info(self) -> Array:
        return image(1, 28, 28)

    @property
    def labels_info(self) -> ClassLabel:
        return classes(self._names)

    def download_and_prepare(self, dl_manager: DownloadManager | None = None) -> None:
        if self.path is None:
            manager = dl_manager or DownloadManager()
            stem = type(self).__name__.lower()
            paths = [
                manager.download(f"{self._url}{name}", checksum, f"{stem}-{name}")
                for name, checksum in self._files.items()
            ]
            self.path = paths[0].parent / f"{stem}-"

    def _read(self) -> tuple[Tensor, Tensor]:
        self.download_and_prepare()
        images, labels = (
            torch.cat([_read_idx(self._file(f"{part}-{kind}")) for part in ("train", "t10k")])
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )
        if len(images) != len(labels):
            raise ValueError(f"{self.path}: {len(images)} images and {len(labels)} labels.")
        return images[:, None], labels.long()

    def _file(self, name: str) -> Path:
        assert self.path is not None
        folder = self.path if self.path.is_dir() else self.path.parent
        prefix = "" if self.path.is_dir() else self.path.name
        for candidate in (f"{prefix}{name}.gz", f"{prefix}{name}"):
            if (folder / candidate).is_file():
                return folder / candidate
        raise ValueError(f"{folder} holds no {name}.gz. Check the path.")


def _read_idx(path: Path) -> Tensor:
    """Return the array in a file of MNIST's form: a magic number, the sizes, the bytes."""
    try:
        content = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
        zeros, kind, num_sizes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{num_sizes}I", content, 4)
        values = np.frombuffer(bytearray(content), np.uint8, offset=4 + 4 * num_sizes)
        if zeros or kind != 8:
            raise ValueError(f"the magic number is {content[:4].hex()}")
        return torch.from_numpy(values.reshape(shape))
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise ValueError(f"{path} is no file of MNIST's form: {error}.") from error


@datasets.register("mnist")
class Mnist(_Idx):
    """Holds 70,000 handwritten digits, grey, 28x28; the last 10,000 are meant for testing.

    Args:
        path: a folder with the four original files; fetched where it is left out.
    """

    _url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    _files: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    }
    _names = tuple("0123456789")


@datasets.register("fashion_mnist")
class FashionMnist(_Idx):
    """Holds 70,000 pieces of clothing, grey, 28x28; the last 10,000 are meant for testing.

    Args:
        path: a folder with the four original files; fetched where it is left out.
    """

    _url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    _files: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    }
    _names = (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )


_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class _ListedImages(_Fetched, ImageFiles):
    """Is a list of image files below a folder that is given or fetched."""

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)


@datasets.register("cifar10")
class Cifar10(_ListedImages):
    """Holds 60,000 colour images of ten kinds, 32x32; the last 10,000 are meant for testing.

    Args:
        path: a folder with the binary version's files, or with folders `train` and `test` that hold
            images, one folder for each class; fetched where it is left out.
    """

    _url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    _checksum = "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    _parts = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")

    def __init__(self, path: str | None = None) -> None:
        super().__init__(path)
        self._batches: np.ndarray | None = None

    @property
    def features_info(self) -> Array:
        return image(3, 32, 32)

    @property
    def labels_info(self) -> ClassLabel:
        return classes(_CIFAR10)

    def __len__(self) -> int:
        batches = self._binary()
        return super().__len__() if batches is None else len(batches)

    def read(self, start: int, stop: int) -> tuple[Samples, Tensor]:
        batches = self._binary()
        if batches is None:
            images, labels = super().read(start, stop)
            return torch.stack(list(images)), labels
        rows = torch.from_numpy(batches[start:stop].copy())
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long()

    def _binary(self) -> np.ndarray | None:
        """Return all records, uint8 [images, 1 + 3072]; None for a folder of image files."""
        if self._batches is None:
            found = self._below("cifar-10-batches-bin", self._parts[0], "train")
            if found.name == "train":
                return None
            folder = found.parent if found.suffix else found
            contents = [np.fromfile(folder / name, np.uint8) for name in self._parts]
            self._batches = np.concatenate(contents).reshape(-1, 3073)
        return self._batches

    def _find(self) -> list[tuple[Path, int]]:
        return [
            (file, index)
            for part in ("train", "test")
            for index, name in enumerate(_CIFAR10)
            for file in images_in(self._below(f"{part}/{name}"))
        ]


@datasets.register("dogs_vs_cats")
class DogsVsCats(_ListedImages):
    """Holds colour photographs of cats and dogs, of many sizes.

    Args:
        path: a folder with `PetImages/Cat` and `PetImages/Dog`, or with files such as
            `train/cat.0.jpg`; fetched where it is left out.
    """

    _url = (
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
        "kagglecatsanddogs_5340.zip"
    )
    _checksum = "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

    @property
    def labels_info(self) -> ClassLabel:
        return classes(("cat", "dog"))

    def _find(self) -> list[tuple[Path, int]]:
        folder = self._below("PetImages", "train")
        if folder.name == "train":
            return [(file, int(file.name.startswith("dog."))) for file in images_in(folder)]
        # The published archive holds a few files without content.
        return [
            (file, index)
            for index, name in enumerate(("Cat", "Dog"))
            for file in images_in(folder / name)
            if file.stat().st_size
        ]


@datasets.register("tiny_imagenet")
class TinyImagenet(_ListedImages):
    """Holds 110,000 colour images of 200 kinds, 64x64; the last 10,000 are meant for validation.

    Args:
        path: the folder `tiny-imagenet-200`, or the one that holds it; fetched where it is left
            out.
    """

    _url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    _checksum = "md5:90528d7ca1a48142e341f4ef8d21d0de"

    @property
    def features_info(self) -> Array:
        return image(3, 64, 64)

    @property
    def labels_info(self) -> ClassLabel:
        """The classes of WordNet by their numbers, which stand in the archive."""
        return classes(sorted(self._folder().joinpath("wnids.txt").read_text().split()))

    def _folder(self) -> Path:
        return self._below("tiny-imagenet-200/wnids.txt", "wnids.txt").parent

    def _find(self) -> list[tuple[Path, int]]:
        folder, numbers_of = self._folder(), {n: i for i, n in enumerate(self.labels_info.names)}
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        validation = [line.split("\t")[:2] for line in lines]
        return [
            (file, index)
            for name, index in numbers_of.items()
            for file in images_in(folder / "train" / name)
        ] + [(folder / "val" / "images" / file, numbers_of[name]) for file, name in validation]


@datasets.register("imdb")
class Imdb(_Fetched, LabelledTexts):
    """Holds 50,000 reviews of films, for or against; the last 25,000 are meant for testing.

    Args:
        path: the folder `aclImdb`, or the one that holds it; fetched where it is left out.
    """

    _url = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
    _checksum = "md5:7c2ac02c03563afcf9b574c7e56c153a"

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)

    @property
    def labels_info(self) -> ClassLabel:
        return classes(("negative", "positive"))

    def _find(self) -> list[tuple[Path, int]]:
        folder = self._below("aclImdb/train", "train").parent
        return [
            (file, index)
            for part in ("train", "test")
            for index, name in enumerate(("neg", "pos"))
            for file in sorted((folder / part / name).glob("*.txt"))
        ]


@datasets.register("titanic")
class Titanic(Csv):
    """Holds 1,309 passengers of the Titanic and whether they survived.

    Args:
        path: the CSV file that OpenML gives out; fetched where it is left out.
        features: the columns to predict it from.
    """

    _url = "https://www.openml.org/data/get_csv/16826755/phpMYEkMl"
    _checksum = "sha256:c617db2c7470716250f6f001be51304c76bcc8815527ab8bae734bdca0735737"

    def __init__(
        self,
        path: str | None = None,
        features: tuple[str, ...] = (
            "pclass",
            "sex",
            "age",
            "sibsp",
            "parch",
            "fare",
            "embarked",
        ),
    ) -> None:
        super().__init__(path, "survived", list(features), task="classification")

    def download_and_prepare(self, dl_manager: DownloadManager | None = None) -> None:
        if self.path is None:
            manager = dl_manager or DownloadManager()
            self.path = manager.download(self._url, self._checksum, "titanic.csv")


@datasets.register("california_housing")
class CaliforniaHousing(_InMemory):
    """Holds 20,640 districts of California: place, houses, people, and the value of a house.

    Args:
        path: a folder with `cal_housing.data`, or the one that holds it; fetched where it is left
            out.
    """

    _url = "https://ndownloader.figshare.com/files/5976036"
    _checksum = "sha256:aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681"
    _columns = (
        "longitude",
        "latitude",
        "housing_median_age",
        "total_rooms",
        "total_bedrooms",
        "population",
        "households",
        "median_income",
    )

    @property
    def features_info(self) -> Array:
        return Array((8,), torch.float32, self._columns, ((),) * 8)

    @property
    def labels_info(self) -> Array:
        return numbers(1)

    def download_and_prepare(self, dl_manager: DownloadManager | None = None) -> None:
        if self.path is None:
            manager = dl_manager or DownloadManager()
            self.path = manager.download_and_extract(self._url, self._checksum, "cal_housing.tgz")

    def _read(self) -> tuple[Tensor, Tensor]:
        file = self._below("CaliforniaHousing/cal_housing.data", "cal_housing.data")
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32, ndmin=2))
        if table.shape[1] != 9:
            raise ValueError(f"{file} has {table.shape[1]} columns, expected 9.")
        return table[:, :8].contiguous(), table[:, 8:] / 100_000  # in units of 100,000 dollars

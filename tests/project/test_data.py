"""Files of samples, data sets, data modules and the preparation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from loopwright import project
from loopwright.errors import ConfigurationError

from .tiny_project import TinyData, TinyPreparation, data_module, points


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_D_22_files_keep_what_is_written(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    images = np.random.default_rng(0).normal(size=(5, 1, 2, 3)).astype(np.float32)
    path = project.write_samples(tmp_path / f"a.{ending}", images, torch.arange(5))
    features, labels = project.read_samples(path)
    np.testing.assert_array_equal(features, images)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    texts = project.write_samples(tmp_path / f"b.{ending}", ["one", "two words"], [[0.5], [1.5]])
    features, labels = project.read_samples(texts)
    assert features == ["one", "two words"]
    np.testing.assert_array_equal(labels, [[0.5], [1.5]])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{ending}", f"b.{ending}"]


def test_a_file_with_objects_or_other_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", features=np.array([{}], dtype=object), label=[0])
    with pytest.raises(ValueError, match="allow_pickle"):
        project.read_samples(tmp_path / "objects.npz")
    np.savez(tmp_path / "other.npz", x=[1])
    with pytest.raises(ConfigurationError, match="holds x; expected the arrays features and label"):
        project.read_samples(tmp_path / "other.npz")
    with pytest.raises(ConfigurationError, match=r"ends in '\.csv'; expected \.npz or \.parquet"):
        project.write_samples(tmp_path / "a.csv", [1], [1])


def test_a_table_in_the_place_of_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,0\n")
    with pytest.raises(
        ConfigurationError, match=r"ends in '\.csv'; .* Give a table as dataset_path"
    ):
        project.read_samples(tmp_path / "a.csv")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"x": [1], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigurationError, match="holds x, label; expected the arrays features"):
        project.read_samples(tmp_path / "a.parquet")


def test_D_09_and_D_10_and_D_12_and_D_17_a_module_holds_three_sets_and_makes_their_loaders() -> (
    None
):
    holder = data_module(batch_size=16)
    counts = {
        "train": [len(y) for _, y in holder.train_dataloader()],
        "val": [len(y) for _, y in holder.val_dataloader()],
        "test": [len(y) for _, y in holder.test_dataloader()],
        "predict": [len(y) for _, y in holder.predict_dataloader()],
    }
    assert counts == {
        "train": [16] * 5,
        "val": [16, 4],
        "test": [16, 4],
        "predict": [16, 4],
    }
    with pytest.raises(ConfigurationError, match="holds no train set"):
        project.DataModule(holder.model_config, test_set=holder.test_set).train_dataloader()


def test_D_17_batches_are_shuffled_by_the_seed_and_workers_change_nothing() -> None:
    orders = [
        torch.cat([y for _, y in data_module(seed=seed, num_workers=n).train_dataloader()])
        for seed, n in ((1, 0), (1, 1), (2, 0))
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_D_18_a_module_divides_a_file(tmp_path: Path, elsewhere: bool) -> None:
    pytest.importorskip("pyarrow")
    features, labels = points(100)
    rows = [",".join(map(str, [*x, y])) for x, y in zip(features, labels, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b,c,d,label", *rows]))
    settings = project.MODEL_CONFIG | {"batch_size": 8}
    given = {"data_path": tmp_path / "a.csv", "test_set_out_of_dataset": elsewhere}
    holder = project.DataModule(settings, **given)  # type: ignore[arg-type]
    assert len(holder.train_set) == 80
    assert len(holder.val_set) == (20 if elsewhere else 10)
    assert holder.test_set is None if elsewhere else len(holder.test_set) == 10
    assert holder.train_set.targets.dtype == torch.int64
    same = project.DataModule(settings, **given)  # type: ignore[arg-type]
    assert torch.equal(same.train_set.features, holder.train_set.features)
    other = project.DataModule(settings | {"seed": 1}, **given)  # type: ignore[arg-type]
    assert not torch.equal(other.train_set.features, holder.train_set.features)
    small = project.DataModule(settings, data_path=tmp_path / "a.csv", split_percent=0.5)
    assert len(small.train_set) == 50


def test_D_13_and_D_14_a_data_class_loads_first_and_then_makes_its_module(tmp_path: Path) -> None:
    told: list[Any] = []

    class Told(project.Data):
        def load_datasets(self, training: Any, validation: Any, test: Any) -> None:
            told.append((training, validation, test))

        def create_data_module(self) -> Any:
            told.append("module")

    Told({}, training_path="a", validation_path="b", test_dataset_path="c")
    assert told == []
    Told({}, True, "a", "b", "c", tokenizer="t")
    assert told == [("a", "b", "c"), "module"]


def test_D_11_and_D_16_the_module_is_returned_and_kept(tmp_path: Path) -> None:
    features, labels = points(8)
    path = project.write_samples(tmp_path / "a.npz", features, labels)
    data = TinyData(
        project.MODEL_CONFIG,
        load_datasets=True,
        training_path=path,
        validation_path=path,
        test_dataset_path=path,
    )
    holder = data.get_data_module()
    assert holder is data.data_module
    assert [len(each) for each in (holder.train_set, holder.val_set, holder.test_set)] == [8, 8, 8]


@pytest.mark.parametrize("method", ["load_datasets", "create_data_module"])
def test_D_15_what_is_not_implemented_is_named(method: str) -> None:
    missing = project.Data({})
    arguments = (None, None, None) if method == "load_datasets" else ()
    with pytest.raises(NotImplementedError, match=f"Data has no {method}. Implement it"):
        getattr(missing, method)(*arguments)


def test_an_iterable_dataset_gives_the_samples_of_its_files(tmp_path: Path) -> None:
    features, labels = points(6)
    paths = [
        project.write_samples(tmp_path / f"{part}.npz", features[part::2], labels[part::2])
        for part in range(2)
    ]
    found = list(DataLoader(project.IterableDataset(list(paths)), batch_size=4))
    assert torch.cat([y for _, y in found]).tolist() == [*labels[0::2], *labels[1::2]]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_D_21_and_D_22_the_preparation_writes_three_files_that_share_no_sample(
    tmp_path: Path, ending: str
) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    settings = {"file_format": ending, "seed": 3}
    paths = TinyPreparation(None, True, tmp_path, settings).prepare_datasets()
    names = ["train_dataset", "val_dataset", "test_dataset"]
    assert [path.name for path in paths] == [f"{name}.{ending}" for name in names]
    parts = [project.read_samples(path)[0] for path in paths]
    assert [len(part) for part in parts] == [90, 18, 12]
    rows = {tuple(row) for part in parts for row in part.tolist()}
    assert len(rows) == 120
    before = [path.stat().st_mtime_ns for path in paths]
    assert TinyPreparation(None, True, tmp_path, settings).prepare_datasets() == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
    other = TinyPreparation(None, True, tmp_path, {**settings, "seed": 4}).prepare_datasets()
    assert other[0].parent != paths[0].parent


def test_data_that_changed_are_written_anew(tmp_path: Path) -> None:
    """Two labels that change places, and another shape, leave the values of a part as they were."""
    features, labels = points(40)
    settings = {"seed": 3}
    rows = project.DatasetPreparation(None, True, tmp_path, settings).split(40)["train"]
    first, second = rows[0], rows[labels[rows] != labels[rows[0]]][0]
    corrected = labels.copy()
    corrected[[first, second]] = labels[[second, first]]
    for inputs, targets in (
        (features, labels),
        (features, corrected),
        (features.reshape(40, 2, 2), labels),
    ):
        path = project.write_samples(tmp_path / "mine.npz", inputs, targets)
        parts = project.DatasetPreparation(path, True, tmp_path, settings).prepare_datasets()
        found = project.read_samples(parts[0])
        np.testing.assert_array_equal(found[0], inputs[rows])
        np.testing.assert_array_equal(found[1], targets[rows])


def test_D_22_a_table_of_ones_own_is_divided(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = "\n".join(f"{n},{'ab'[n % 2]},{n / 7}" for n in range(20))
    (tmp_path / "mine.csv").write_text(f"x,kind,y\n{rows}")
    settings = {"target": "y", "train_ratio": 0.5, "validation_ratio": 0.25, "test_ratio": 0.25}
    preparation = project.DatasetPreparation(tmp_path / "mine.csv", True, tmp_path, settings)
    features, targets = project.read_samples(preparation.prepare_datasets()[0])
    assert features.shape == (10, 2)
    np.testing.assert_allclose(targets[:, 0], features[:, 0] / 7, rtol=1e-5)


def test_duplicates_of_test_samples_can_be_dropped(tmp_path: Path) -> None:
    class Doubled(project.DatasetPreparation):
        def load_embedded(self) -> tuple[Any, Any]:
            features, labels = points(50)
            return np.concatenate([features, features]), np.concatenate([labels, labels])

    counts = []
    for drops in (False, True):
        settings = {"drop_test_duplicates": drops}
        paths = Doubled(None, True, tmp_path, settings).prepare_datasets()
        parts = [{tuple(row) for row in project.read_samples(p)[0].tolist()} for p in paths]
        counts.append([len(parts[0] & parts[2]), len(parts[1] & parts[2])])
    assert sum(counts[0]) > 0
    assert counts[1] == [0, 0]

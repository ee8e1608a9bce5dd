"""Tests of the embedded data sets: what they say of themselves is what they hold."""

import pytest

from loopwright.datasets import ClassLabel, datasets

pytest.importorskip("sklearn")


@pytest.mark.parametrize(
    ("name", "rows", "classes"),
    [
        ("digits", 1797, 10),
        ("iris", 150, 3),
        ("wine", 178, 3),
        ("breast_cancer", 569, 2),
        ("diabetes", 442, None),
    ],
)
def test_the_description_fits_the_samples(name: str, rows: int, classes: int | None) -> None:
    source = datasets.get(name)()
    features, labels = source.tensors()
    assert len(source) == len(features) == len(labels) == rows
    assert features.shape[1:] == source.features_info.shape
    assert features.dtype == source.features_info.dtype
    assert labels.shape[1:] == source.labels_info.shape
    assert labels.dtype == source.labels_info.dtype
    if classes is None:
        assert not isinstance(source.labels_info, ClassLabel)
    else:
        assert isinstance(source.labels_info, ClassLabel)
        assert source.labels_info.num_classes == classes
        assert labels.unique().tolist() == list(range(classes))


def test_a_sample_is_a_row_and_the_samples_are_read_once() -> None:
    source = datasets.get("iris")()
    source.download_and_prepare()
    features, labels = source.tensors()
    assert source[7][0].tolist() == features[7].tolist()
    assert source[7][1] == labels[7]

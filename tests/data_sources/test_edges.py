"""The edges of images, and the data set of digits beside theirs."""

import pytest
import torch

from loopwright.datasets import datasets, find_edges


def test_edges_stand_where_an_image_changes() -> None:
    images = torch.zeros(2, 1, 6, 6)
    images[0, :, :, 3:] = 0.5
    edges = find_edges(images)
    expected = torch.zeros(6, 6)
    expected[:, 2:4] = 1.0
    assert torch.equal(edges[0, 0], expected)
    assert torch.equal(edges[1], images[1])  # nothing changes, and nothing is divided by zero


def test_edges_do_not_depend_on_the_direction() -> None:
    images = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(find_edges(images.mT), find_edges(images).mT)
    torch.testing.assert_close(find_edges(1 - images), find_edges(images))


def test_digits_beside_their_edges() -> None:
    pytest.importorskip("sklearn")
    digits, source = datasets.get("digits")(), datasets.get("digit_edges")()
    assert len(source) == 1797
    edges, images = source.read(0, 5)
    torch.testing.assert_close(images, digits.read(0, 5)[0] / 16)
    torch.testing.assert_close(edges, find_edges(images))
    assert source.labels_info.shape == source.features_info.shape == (1, 8, 8)
    apart = datasets.get("digit_edges")(aligned=False)
    assert torch.equal(apart.read(0, 5)[0], edges)
    assert not torch.equal(apart.read(0, 5)[1], images)
    whole = [each.read(0, 1797)[1].sum(dim=(1, 2, 3)).sort().values for each in (source, apart)]
    assert torch.equal(*whole)

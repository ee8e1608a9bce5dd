"""Collected outputs: structures of tensors, joined along the first dimension."""

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch

from loopwright.outputs import Collected

Pair = namedtuple("Pair", "a b")


def joined(outputs: list[Any], num_rows: int | None) -> Any:
    collected = Collected(num_rows)
    for output in outputs:
        collected.add(output)
    return collected.result()


@pytest.mark.parametrize("num_rows", [None, 5])
@pytest.mark.parametrize(
    "make",
    [
        lambda t: t,
        lambda t: (t, t + 1),
        lambda t: [t, (t,)],
        lambda t: {"a": t, "b": [t, {"c": t}]},
        lambda t: OrderedDict(a=t),
        lambda t: Pair(t, None),
    ],
)
def test_structures(make: Any, num_rows: int | None) -> None:
    whole = torch.arange(10.0).reshape(5, 2)
    found = joined([make(whole[:2]), make(whole[2:4]), make(whole[4:])], num_rows)
    expected = make(whole)
    assert type(found) is type(expected)
    assert str(found) == str(expected)


@pytest.mark.parametrize("num_rows", [None, 4])
def test_outputs_without_one_row_per_sample(num_rows: int | None) -> None:
    """Two rows for each sample, or one for each batch."""
    parts = [torch.ones(4, 2), torch.zeros(4, 2)]
    assert torch.equal(joined(parts, num_rows), torch.cat(parts))
    scalars = [torch.tensor(1.0), torch.tensor(2.0)]
    assert joined(scalars, num_rows).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("num_rows", [None, 4])
def test_types_that_differ_are_promoted(num_rows: int | None) -> None:
    found = joined([torch.ones(2, dtype=torch.int64), torch.full((2,), 0.5)], num_rows)
    assert found.tolist() == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("num_rows", [None, 4])
def test_shapes_that_cannot_be_joined(num_rows: int | None) -> None:
    with pytest.raises(ValueError, match=r"cannot be joined.*stream=True"):
        joined([torch.ones(2, 2), torch.ones(2, 3)], num_rows)


def test_structures_that_differ() -> None:
    with pytest.raises(ValueError, match="cannot be joined"):
        joined([{"a": torch.ones(1)}, {"b": torch.ones(1)}], None)
    with pytest.raises(ValueError, match="returned a object"):
        joined([object()], None)


def test_results_hold_no_graph_and_are_copies() -> None:
    part = torch.ones(2, requires_grad=True) * 2
    found = joined([part], 2)
    assert not found.requires_grad
    found.zero_()
    assert part.tolist() == [2.0, 2.0]


def test_nothing() -> None:
    assert joined([], None) is None

"""State folders: whole or not there, and never executed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright import checkpoint
from loopwright.checkpoint import read_state, write_state
from loopwright.errors import CheckpointError

TREE: dict[str, Any] = {
    "int": 3,
    "large": 2**70,
    "float": 0.1,
    "none": None,
    "flag": True,
    "text": "a\u00e9\n",
    "bytes": b"\x00\xff",
    "tuple": (1, (2, [3])),
    "keys": {1: "a", None: "b", (1, 2): "c"},
    "dollar": {"$tensor": 1, "$tuple": [1]},
    "single": {"$tensor": "0"},
    "empty": [{}, [], ()],
}


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    write_state(tmp_path / "state", TREE)
    assert read_state(tmp_path / "state") == TREE


LONG: dict[str, Any] = {
    "floats": [0.1 * i for i in range(1500)] + [float("inf"), -0.0],
    "integers": [*range(1500), -(2**63), 2**63 - 1],
    "tuple": tuple(range(1500)),
    "large": [2**70] * 1500,
    "mixed": [1, 0.5] * 750,
    "flags": [True] * 1500,
    "nested": {"a": [[1.0] * 1000, [2] * 999]},
}


def test_long_lists_of_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    write_state(tmp_path / "state", LONG)
    found = read_state(tmp_path / "state")
    assert found == LONG
    assert repr(found) == repr(LONG)  # types and the sign of zero, too
    assert len((tmp_path / "state" / "state.json").read_bytes()) < 80_000


@pytest.mark.parametrize(
    "value",
    ["a" * 7_000_000, dict.fromkeys(range(90000), 0), [0.5] * 500_001],
    ids=["text", "entries", "numbers"],
)
def test_what_only_memory_bounds_is_refused_when_it_is_saved(value: Any, tmp_path: Path) -> None:
    """A file of it could take any memory when it is read."""
    with pytest.raises(CheckpointError, match="Keep what is large as tensors or arrays"):
        write_state(tmp_path / "state", {"a": value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
)
def test_tensors_come_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = (torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    content = {"plain": tensor, "view": tensor.T[1:], "scalar": tensor[0, 0], "none": tensor[:0]}
    write_state(tmp_path / "state", {**content, "shared": [tensor, tensor]})
    found = read_state(tmp_path / "state")
    for name, expected in content.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], expected)


def test_arrays_and_numbers_of_numpy(tmp_path: Path) -> None:
    state = np.random.RandomState(1).get_state()
    write_state(tmp_path / "state", {"state": state, "number": np.float64(0.1), "nan": np.nan})
    found = read_state(tmp_path / "state")
    np.random.RandomState().set_state(found["state"])
    assert np.array_equal(found["state"][1], state[1])
    assert type(found["number"]) is float
    assert found["nan"] != found["nan"]


def test_what_cannot_be_held_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.1 is a object"):
        write_state(tmp_path / "state", {"a": [1, object()]})
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "state"
    write_state(folder, {"a": 1})
    write_state(folder, {"a": 2})
    assert read_state(folder) == {"a": 2}

    def full(path: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(OSError, match="no space"):
        write_state(folder, {"a": 3})
    assert read_state(folder) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_state_is_there_when_its_replacement_was_cut_short(tmp_path: Path) -> None:
    """Killed between its two renames, which leave nothing under the name for a moment."""
    folder = tmp_path / "state [1]"
    write_state(folder, {"a": 1})
    os.rename(folder, tmp_path / ".state [1].replaced-99999")
    assert read_state(folder) == {"a": 1}
    write_state(folder, {"a": 2})
    assert read_state(folder) == {"a": 2}
    assert os.listdir(tmp_path) == ["state [1]"]


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_is_told_by_the_name_of_the_file(name: str, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    write_state(folder, {"weights": torch.ones(4), "text": "abc"})
    path = folder / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = content.index(b'"') + 1
        path.write_bytes(content[:middle] + b"\xff" + content[middle + 1 :])
    with pytest.raises(CheckpointError, match=name):
        read_state(folder)


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"format": 1, "files": 3}', '{"format": 9, "files": {}}']
)
def test_a_manifest_that_is_none_is_refused(manifest: str, tmp_path: Path) -> None:
    write_state(tmp_path / "state", {})
    (tmp_path / "state" / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "state")


def test_no_state_holds_a_pickle(tmp_path: Path) -> None:
    write_state(tmp_path / "state", {"weights": torch.ones(2)})
    assert {path.suffix for path in (tmp_path / "state").iterdir()} == {".json", ".safetensors"}
    json.loads((tmp_path / "state" / "state.json").read_text())

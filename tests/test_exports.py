"""Exported files: whole or not there, never executed, and no larger than they look."""

import enum
import os
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_trainer
from torch import nn

from loopwright.errors import CheckpointError
from loopwright.exports import load_export, save_export


class Colour(enum.IntEnum):
    """Is an int that is loaded by importing a class."""

    RED = 1


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_an_export_loads_without_executing_anything(tmp_path: Path) -> None:
    """P-75."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    content = {
        "model": model.state_dict(),
        "counter": Counter([1, 1]),
        "ordered": OrderedDict(a=1),
        "numpy": {"score": np.float64(0.5), "count": np.int64(3)},
        "plain": [1, 2.0, "a", None, True, (1,), {2}, torch.float32, torch.Size([1])],
    }
    save_export(content, tmp_path / "a.pt")
    found = load_export(tmp_path / "a.pt")
    assert found["numpy"] == {"score": 0.5, "count": 3}
    assert found["plain"] == content["plain"]
    assert found["counter"] == content["counter"]
    assert found["model"]._metadata == content["model"]._metadata  # type: ignore[attr-defined]
    model.load_state_dict(found["model"])
    assert isinstance(content["numpy"]["score"], np.float64)  # type: ignore[index]


@pytest.mark.parametrize(
    "value",
    [object(), Colour.RED, print, nn.Linear(1, 1)],
    ids=["object", "enum", "function", "module"],
)
def test_what_would_execute_code_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"extra\.inner\[0\]"):
        save_export({"extra": {"inner": [value]}}, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_code_is_not_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    torch.save({"model_state_dict": Bomb(witness)}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r'evil.pt names code .* "_?io:open"'):
        load_export(tmp_path / "evil.pt")
    assert not witness.exists()


def test_an_export_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "a.pt"
    save_export({"a": 1}, path)

    def half(content: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_export({"a": 2}, path)
    assert load_export(path) == {"a": 1}
    assert os.listdir(path.parent) == ["a.pt"]


class Own:
    """Is a class of the user's, which a file names."""

    def __init__(self, value: int) -> None:
        self.value = value


def test_code_is_loaded_only_by_its_exact_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that no list names is not imported."""
    path, made = tmp_path / "own.pt", tmp_path / "other_module.py"
    made.write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from other_module import Thing  # type: ignore[import-not-found]

    trainer = tiny_trainer()
    state = trainer.model.state_dict()
    torch.save({"model_state_dict": state, "own": Own(3), "thing": Thing()}, path)
    monkeypatch.delitem(sys.modules, "other_module")
    name = f"{__name__}:Own"
    for trusted in ([], [name], [f"{__name__}:Colour", name]):
        with pytest.raises(CheckpointError, match=r'trusted=\["other_module:Thing"'):
            load_export(path, trusted=trusted)
        assert "other_module" not in sys.modules
    content = trainer.load_checkpoint(path, trusted=[name, "other_module:Thing"])
    assert content["own"].value == 3
    assert type(content["thing"]).__module__ == "other_module"
    with pytest.raises(CheckpointError, match="names code"):  # the trust was for that call
        trainer.load_checkpoint(path)


def test_what_is_trusted_has_to_be_an_exact_path(tmp_path: Path) -> None:
    save_export({"a": 1}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"trusted holds 'numpy.dtype'; expected a path such as"):
        load_export(tmp_path / "a.pt", trusted=["numpy.dtype"])
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_export(tmp_path / "a.pt", trusted=["no_such_module:Net"])


def test_a_damaged_file_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_export({"a": torch.arange(1000)}, path)
    whole = path.read_bytes()
    for content in (
        whole[:-40],
        whole[:100],
        b"",
        b"PK",
        whole.replace(b"\x80\x02}", b"\x80\x02("),
        b"a" * 500,
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.pt"):
            load_export(path)
    with pytest.raises(FileNotFoundError):
        load_export(tmp_path / "none.pt")


def rewrite(path: Path, *, compression: int = zipfile.ZIP_STORED, **added: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (members | added).items():
            archive.writestr(name, content)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "a//b"])
def test_archives_with_odd_names_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_export({"a": 1}, path)
    rewrite(path, **{name: b"evil"})
    with pytest.raises(CheckpointError, match="is refused: its archive holds"):
        load_export(path)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_archives_that_grow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_export({"a": "a" * 1_000_000}, path)
    rewrite(path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="would grow"):
        load_export(path)
    torch.save({"a": bytearray(5)}, path)
    with pytest.raises(CheckpointError, match="holds a bytearray"):
        load_export(path)

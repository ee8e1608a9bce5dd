"""Checkpoints in Lightning's format at URLs: as safe as those in files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loopwright.errors import CheckpointError

pytest.importorskip("lightning")
fsspec = pytest.importorskip("fsspec")

from loopwright.adapters.lightning.checkpoints import SafeCheckpointIO  # noqa: E402

URL = "memory://lightning/x.ckpt"


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    fsspec.filesystem("memory").store.clear()


def test_what_could_not_be_loaded_is_not_written_to_a_url() -> None:
    with pytest.raises(CheckpointError, match="network is a Linear, which a checkpoint cannot"):
        SafeCheckpointIO().save_checkpoint({"network": nn.Linear(1, 1)}, URL)
    assert not fsspec.filesystem("memory").exists(URL)


def test_what_is_written_to_a_url_is_read_from_it() -> None:
    weights = {"weight": torch.arange(3.0)}
    SafeCheckpointIO().save_checkpoint({"state_dict": weights, "score": np.float64(0.5)}, URL)
    content = SafeCheckpointIO().load_checkpoint(URL)
    assert torch.equal(content["state_dict"]["weight"], weights["weight"])
    assert type(content["score"]) is float


def test_a_hostile_file_at_a_url_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "executed"), "w"))

    with fsspec.open(URL, "wb") as file:
        torch.save({"more": Hostile()}, file)
    with pytest.raises(CheckpointError, match="x.ckpt cannot be read: .*more than plain values"):
        SafeCheckpointIO().load_checkpoint(URL)
    assert not (tmp_path / "executed").exists()

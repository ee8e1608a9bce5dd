"""Checks of a declared run before it trains: its folder, the disk, a batch as described."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
pytest.importorskip("yaml")

from loopwright import experiment_checks  # noqa: E402
from loopwright.errors import ConfigurationError  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def declared(**run: Any) -> dict[str, Any]:
    return {
        "dataset": {"dataset": "iris", "samples": {"train": 0.6, "validation": 0.2}},
        "model": {"model": {"type": "mlp", "hidden": [300, 300]}, "training": {}},
        "run": {"folder": "run", "threads": 1, "device": "cpu", **run},
    }


@pytest.mark.parametrize("optimizer", ["adam", "sgd", {"type": "sgd", "momentum": 0.9}])
def test_too_little_disk_for_the_checkpoints_is_told(
    optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size that is looked for is that of the checkpoints which such a run writes."""
    values = declared(checkpoint={"every_epochs": 1, "keep_latest": 2, "keep_best": 1})
    values["model"]["training"]["optimizer"] = optimizer
    monkeypatch.setattr(experiment_checks, "free_bytes", lambda path: 5)
    with pytest.raises(ConfigurationError) as caught:
        Experiment.from_dict(values).train()
    assert not Path("run").exists()
    found = re.search(
        r"run.folder: \S+ has 5 bytes free, and 4 checkpoints of ([\d,]+) bytes need ([\d,]+)",
        str(caught.value),
    )
    assert found, caught.value
    size, needed = (int(text.replace(",", "")) for text in found.groups())
    assert needed == 4 * size
    monkeypatch.setattr(experiment_checks, "free_bytes", lambda path: needed)
    Experiment.from_dict(values).train()
    (checkpoint,) = Path("run/checkpoints").glob("step-*")
    weights = [checkpoint / f"{part}.safetensors" for part in ("model", "optimizer")]
    written = sum(path.stat().st_size for path in weights if path.exists())
    assert size == pytest.approx(written, rel=0.02)


def test_one_checkpoint_is_counted_where_only_the_end_is_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiment_checks, "free_bytes", lambda path: 5)
    with pytest.raises(ConfigurationError, match="and 1 checkpoint of .* on a larger disk$"):
        Experiment.from_dict(declared()).train()


def test_a_folder_below_which_nothing_can_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    values = declared()
    del values["run"]["folder"]
    with pytest.raises(ConfigurationError, match="cannot write the run folder logs: permission"):
        Experiment.from_dict(values).train(trackings_dir="logs")


def test_a_folder_that_cannot_be_looked_for_is_told() -> None:
    with pytest.raises(
        ConfigurationError, match=r"run\.folder: cannot write .*: File name too long"
    ):
        Experiment.from_dict(declared(folder="x" * 300)).train()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_in_one_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    else:
        hidden.chmod(0)
    try:
        (problem,) = experiment_checks.folder_problems(hidden / "run", resumes=False)
    finally:
        os.seteuid(user)
        hidden.chmod(0o700)
    assert problem.message.lower().endswith("permission denied. name another folder")


def test_shapes_are_tried_before_data_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set is described, and never read or fetched."""
    values = declared()
    values["model"]["model"] = {"type": "torch.nn:Linear", "in_features": 7, "out_features": 3}
    experiment = Experiment.from_dict(values)
    source = experiment.dataset.dataset
    monkeypatch.setattr(source, "download_and_prepare", lambda manager: pytest.fail("fetched"))
    message = "model: a batch of the data does not go through model and loss: .*2x4 and 7x3"
    with pytest.raises(ConfigurationError, match=message):
        experiment.train()

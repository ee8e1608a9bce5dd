"""Large checkpoints under fire, full disks."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from faults.runner import FULL, Server
from loopwright.checkpoint import take_snapshot
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.checkpoint_store import CheckpointStore

pytestmark = pytest.mark.faults


def test_killed_while_a_large_checkpoint_is_written(server: Server, tmp_path: Path) -> None:
    kills, megabytes = (200, 100) if FULL else (6, 10)
    folder, witness = tmp_path / "run", tmp_path / "finished"
    store = CheckpointStore(folder / "checkpoints", CheckpointPolicy(), print)
    draws, before = random.Random(0), 0
    for _ in range(kills):
        seconds = draws.uniform(1, 4)
        server.run("large", folder=folder, megabytes=megabytes, witness=witness, kill_after=seconds)
        finished = int(witness.read_text().split()[-1]) if witness.exists() else 0
        found = store.read_latest()
        if found is None:
            assert finished == 0
            continue
        step = found[1]["progress"]["step"]
        assert step >= finished >= before
        weights = found[1]["model"]["weights"]
        assert torch.equal(weights, torch.full_like(weights, -step))
        before = finished
    assert before > 0


def test_a_full_disk_leaves_the_run_alone(server: Server, tmp_path: Path) -> None:
    """The save fails with what was needed, the next one succeeds, and nothing else changes."""
    whole = server.run("train", folder=tmp_path / "whole")["report"]
    ended = server.run("full_disk", folder=tmp_path / "run", first=20, last=33)["report"]
    assert ended["error"] is None
    failures = [line for line in ended["said"] if "could not be" in line]
    assert len(failures) == 2  # steps 21 and 28
    assert "step-00000021" in failures[0]
    assert "it needs" in failures[0]
    assert "are free" in failures[0]
    assert ended["outcome"] == whole["outcome"]


def test_stopped_while_the_disk_is_full(server: Server, tmp_path: Path) -> None:
    """The checkpoint before stays, is found, and the run goes on from it when there is space."""
    whole = server.run("train", folder=tmp_path / "whole")["report"]
    folder = tmp_path / "run"
    ended = server.run("full_disk", folder=folder, first=20, last=999, kill_at=25)["report"]
    assert ended["error"] == "OSError"
    assert "step-00000025" in ended["message"]
    assert sorted(os.listdir(folder / "checkpoints")) == ["step-00000007", "step-00000014"]
    later = server.run("train", folder=folder)["report"]
    assert later["outcome"] == whole["outcome"]
    assert later["log"] == whole["log"]


def test_a_full_disk_ends_the_run_where_the_policy_says_so(server: Server, tmp_path: Path) -> None:
    whole = server.run("train", folder=tmp_path / "whole")["report"]
    folder = tmp_path / "run"
    options = {"first": 20, "last": 999, "stop_when_save_fails": True}
    ended = server.run("full_disk", folder=folder, **options)["report"]
    assert ended["error"] == "OSError"
    assert "step-00000021 could not be written" in ended["message"]
    assert 21 <= ended["step"] <= 28  # the next save waits for the one that fails
    assert sorted(os.listdir(folder / "checkpoints")) == ["step-00000007", "step-00000014"]
    later = server.run("train", folder=folder)["report"]
    assert later["outcome"] == whole["outcome"]
    assert later["log"] == whole["log"]


def test_a_file_system_that_is_full_for_a_while(server: Server, small_disk: Path) -> None:
    """The log of metrics waits as well, and holds every epoch in the end."""
    whole = server.run("train", folder=small_disk / "whole")["report"]
    shutil.rmtree(small_disk / "whole")
    options = {"first": 20, "last": 90, "how": "full"}  # two epochs end meanwhile
    ended = server.run("full_disk", folder=small_disk / "run", **options)["report"]
    assert ended["error"] is None, ended
    assert sum("could not be saved" in line for line in ended["said"]) == 10
    assert sum("Metrics could not be logged" in line for line in ended["said"]) >= 2
    assert ended["outcome"] == whole["outcome"]
    assert ended["log"] == whole["log"]


def test_a_folder_that_can_only_be_read(server: Server, tmp_path: Path, small_disk: Path) -> None:
    """The run goes on, stops with the error when asked to, and goes on from what it had."""
    whole = server.run("train", folder=tmp_path / "whole")["report"]
    ended = server.run("full_disk", folder=tmp_path / "run", first=20, last=33, how="ro")
    try:
        assert ended["report"]["error"] is None, ended
        failures = [line for line in ended["report"]["said"] if "could not be" in line]
        assert len(failures) == 2
        assert "step-00000021 could not be written (Read-only file system)" in failures[0]
        assert ended["report"]["outcome"] == whole["outcome"]
    finally:
        subprocess.run(["umount", str(tmp_path / "run" / "checkpoints")], check=True, timeout=20)
    folder = tmp_path / "stopped" / "checkpoints"
    ended = server.run("full_disk", folder=folder.parent, first=20, last=999, how="ro", kill_at=25)
    try:
        assert ended["report"]["error"] == "OSError", ended
        assert sorted(os.listdir(folder)) == ["step-00000007", "step-00000014"]
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=20)
    later = server.run("train", folder=folder.parent)["report"]
    assert later["outcome"] == whole["outcome"]
    assert later["log"] == whole["log"]


def test_a_small_file_system(small_disk: Path) -> None:
    """A real one that is full: by size, not by limit."""
    check_small(small_disk)


def check_small(place: Path) -> None:
    said: list[str] = []
    store = CheckpointStore(place / "checkpoints", CheckpointPolicy(), said.append)
    small, large = {"a": torch.ones(2**18)}, {"a": torch.ones(2**20)}
    store.save(small, step=1, metric=None, wait=True)
    needed = take_snapshot(large).num_bytes
    with pytest.raises(OSError, match=f"step-00000002 could not be written.* {needed:,} bytes"):
        store.save(large, step=2, metric=None, wait=True)
    assert os.listdir(place / "checkpoints") == ["step-00000001"]
    store.save(large, step=3, metric=None)
    store.wait()
    assert "step-00000003 could not be written" in said[0]
    found = store.read_latest()
    assert found is not None
    assert found[0].name == "step-00000001"
    store.save(small, step=4, metric=None, wait=True)
    assert [each.step for each in store.list()] == [1, 4]

"""The checkpoints of a run: what stays, what is found, what is told."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from loopwright import checkpoint_store
from loopwright.checkpoint import Buffers, take_snapshot, write_state
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.checkpoint_store import CheckpointStore
from loopwright.errors import CheckpointError


class Made:
    """Is a store, and what it told."""

    def __init__(self, folder: Path, **policy: Any) -> None:
        self.said: list[str] = []
        self.store = CheckpointStore(folder, CheckpointPolicy(**policy), self.said.append)

    def save(self, *steps: int, metrics: dict[int, float] | None = None) -> None:
        for step in steps:
            state = {"step": step, "a": torch.full((3,), float(step))}
            self.store.save(state, step=step, metric=(metrics or {}).get(step), wait=True)

    def steps(self) -> list[int]:
        return [saved.step for saved in self.store.list()]


def test_the_newest_stay(tmp_path: Path) -> None:
    made = Made(tmp_path / "new", keep_latest=2)
    made.save(1, 2, 3, 10)
    assert made.steps() == [3, 10]
    assert sorted(os.listdir(tmp_path / "new")) == ["step-00000003", "step-00000010"]


@pytest.mark.parametrize(("greater", "best"), [(False, [2, 4]), (True, [1, 3])])
def test_the_best_stay_beside_them(greater: bool, best: list[int], tmp_path: Path) -> None:
    made = Made(tmp_path, keep_latest=1, keep_best=2, greater_is_better=greater)
    values = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.3, 5: float("nan"), 7: 0.5}
    made.save(1, 2, 3, 4, 5, 6, 7, metrics=values)
    assert made.steps() == [*best, 7]
    found = made.store.best()
    assert found is not None
    assert found.metric == (0.9 if greater else 0.1)


def test_what_was_resumed_from_stays(tmp_path: Path) -> None:
    made = Made(tmp_path, keep_latest=1)
    made.save(1)
    again = Made(tmp_path, keep_latest=1)
    assert again.store.read_latest() is not None
    again.save(2, 3)
    assert again.steps() == [1, 3]
    policy = CheckpointPolicy(keep_latest=1)
    third = CheckpointStore(tmp_path, policy, print, protected=tmp_path / "step-00000003")
    third.save({}, step=4, metric=None, wait=True)
    assert [saved.step for saved in third.list()] == [3, 4]


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    write_state(tmp_path / "epoch_1", {"a": 1})
    write_state(tmp_path / "step-1", {"a": 1})
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000001" / "notes.txt").write_text("mine")
    (tmp_path / ".step-notes").mkdir()
    made = Made(tmp_path, keep_latest=1)
    made.store.sweep()
    made.save(2, 3)
    assert made.steps() == [3]
    names = {".step-notes", "epoch_1", "step-1", "step-00000001", "step-00000003"}
    assert set(os.listdir(tmp_path)) == names


def test_a_damaged_latest_is_told_and_passed_over(tmp_path: Path) -> None:
    made = Made(tmp_path, keep_latest=3)
    made.save(1, 2, 3)
    (tmp_path / "step-00000003" / "state.json").write_text("{}")
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    found = made.store.read_latest()
    assert found is not None
    assert found[0].name == "step-00000001"
    assert found[1]["step"] == 1
    assert "step-00000003/state.json is damaged" in made.said[0]
    assert "step-00000002" in made.said[1]


def test_all_of_them_damaged_is_no_new_start(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.save(1, 2)
    for name in ("step-00000001", "step-00000002"):
        (tmp_path / name / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"Every checkpoint in .* is damaged \(2 of 2\)"):
        made.store.read_latest()
    assert [line.partition(":")[0] for line in made.said] == [
        "Passing over a damaged checkpoint"
    ] * 2
    assert len(os.listdir(tmp_path)) == 2


def test_without_any_there_is_no_latest(tmp_path: Path) -> None:
    made = Made(tmp_path / "none")
    assert made.store.read_latest() is None
    assert made.store.best() is None
    assert made.steps() == []
    assert not (tmp_path / "none").exists()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.save(1, 2)
    for name in (".step-00000003.partial-1", ".step-00000000.removed-1"):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    os.rename(tmp_path / "step-00000002", tmp_path / ".step-00000002.replaced-1")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000001.replaced-1")
    found = made.store.read_latest()
    assert found is not None
    assert found[0].name == "step-00000002"  # put back where it was being replaced
    assert sorted(os.listdir(tmp_path)) == ["step-00000001", "step-00000002"]


def test_a_step_saved_twice_is_replaced(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.save(1)
    made.store.save({"a": 5}, step=1, metric=0.5, wait=True)
    assert made.store.list()[0].metric == 0.5
    assert made.store.read(tmp_path / "step-00000001") == {"a": 5}


# --------------------------------------------------------------------------------- failures


def refuse(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_failed_save_is_told_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(tmp_path)
    made.save(1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_store, "write_snapshot", refuse)
        made.store.save({"a": torch.ones(1000)}, step=2, metric=None)
        made.store.wait()
    assert len(made.said) == 1
    for part in ("training goes on", "step-00000002", "No space left", "it needs 4,0", "are free"):
        assert part in made.said[0]
    made.save(3)
    assert made.steps() == [1, 3]
    assert len(made.said) == 1


def test_a_failed_save_ends_the_run_where_the_policy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(tmp_path, stop_when_save_fails=True)
    made.save(1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_store, "write_snapshot", refuse)
        for step in (2, 3):
            made.store.save({"a": 1}, step=step, metric=None)
            made.store._join()
            with pytest.raises(OSError, match=f"step-0000000{step} could not be written"):
                made.store.stop_if_failed()
        made.store.save({"a": 1}, step=4, metric=None)
        with pytest.raises(OSError, match="step-00000004 could not be written"):
            made.store.save({"a": 1}, step=5, metric=None)
        made.store.save({"a": 1}, step=6, metric=None)
        made.store._join()
    made.save(7)  # the last save of a run is tried whatever happened before
    assert made.steps() == [1, 7]
    assert "step-00000006 could not be written" in made.said[0]


def test_a_save_that_is_waited_for_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path / "new")
    monkeypatch.setattr(checkpoint_store, "write_snapshot", refuse)
    with pytest.raises(OSError, match="step-00000001 could not be written") as error:
        made.save(1)
    assert error.value.errno == 28


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = Made(tmp_path / "file" / "checkpoints")
    made.store.save({}, step=1, metric=None)
    made.store.wait()
    assert "could not be written" in made.said[0]


# ------------------------------------------------------------------------- in the background


def test_a_save_holds_what_was_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one waits for it, so that its memory can be used again."""
    made, go_on, real = Made(tmp_path, keep_latest=9), threading.Event(), []
    write = checkpoint_store.write_snapshot

    def late(path: Path, snapshot: Any, about: Any) -> None:
        assert go_on.wait(30)
        real.append(snapshot.parts["a"]["a"].data_ptr())
        write(path, snapshot, about)

    monkeypatch.setattr(checkpoint_store, "write_snapshot", late)
    live = torch.zeros(1000)
    made.store.save({"a": live}, step=0, metric=None)
    live += 1
    go_on.set()
    for step in range(1, 4):
        made.store.save({"a": live}, step=step, metric=None)
        live += 1
    made.store.wait()
    for step in range(4):
        found = made.store.read(tmp_path / f"step-{step:08d}")["a"]
        assert torch.equal(found, torch.full((1000,), float(step)))
    assert len(set(real)) == 1
    assert not made.said


def test_buffers_are_for_tensors_of_their_shape_and_type() -> None:
    buffers = Buffers()
    first = take_snapshot({"a": torch.ones(4)}, buffers).parts["a"]["a"]
    assert take_snapshot({"a": torch.zeros(4)}, buffers).parts["a"]["a"] is first
    for other in (torch.ones(5), torch.ones(4, dtype=torch.int64), torch.ones(2, 2)):
        copied = take_snapshot({"a": other}, buffers).parts["a"]["a"]
        assert copied is not first
        assert torch.equal(copied, other)


def test_what_cannot_be_saved_is_told_at_once(tmp_path: Path) -> None:
    made = Made(tmp_path)
    with pytest.raises(CheckpointError, match="a is a object"):
        made.store.save({"a": object()}, step=1, metric=None)


# --------------------------------------------------------------------------------- when due


def test_due_by_steps(tmp_path: Path) -> None:
    made = Made(tmp_path, every_steps=3)
    assert [step for step in range(1, 10) if made.store.is_due(step)] == [3, 6, 9]
    made.save(3)
    assert not made.store.is_due(3)
    assert made.store.is_due(6)
    assert not made.store.is_due_after_epoch(1)


def test_due_by_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint_store.time, "monotonic", lambda: now[0])
    made = Made(tmp_path, every_minutes=2)
    assert not made.store.is_due(1)
    now[0] += 120
    assert made.store.is_due(2)
    made.save(2)
    assert not made.store.is_due(3)
    now[0] += 119
    assert not made.store.is_due(4)
    now[0] += 1
    assert made.store.is_due(4)


def test_due_by_epochs(tmp_path: Path) -> None:
    made = Made(tmp_path, every_epochs=2)
    assert [n for n in range(1, 6) if made.store.is_due_after_epoch(n)] == [2, 4]
    assert not any(made.store.is_due(step) for step in range(1, 9))


def test_nothing_is_due_without_a_condition(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert not any(made.store.is_due(n) or made.store.is_due_after_epoch(n) for n in range(1, 9))


@pytest.mark.parametrize(
    ("policy", "due"),
    [
        ({"keep_best": 1}, [1, 2, 3, 4]),
        ({"keep_best": 1, "every_epochs": 2}, [2, 4]),
        ({"keep_best": 1, "every_steps": 7}, [1, 2, 3, 4]),
    ],
)
def test_what_may_be_best_is_saved(policy: dict[str, int], due: list[int], tmp_path: Path) -> None:
    """Keeping the best would do nothing if no epoch's end were saved."""
    made = Made(tmp_path, **policy)
    assert [n for n in range(1, 5) if made.store.is_due_after_epoch(n)] == due

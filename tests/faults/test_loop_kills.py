"""A TrainLoop that is killed goes on from its newest checkpoint, to the same bits."""

import signal
from pathlib import Path
from typing import Any

import pytest

from faults.loop_task import saved
from faults.runner import FULL, Server

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.faults

# Epochs of 38 batches; the third kill comes while the checkpoint of epoch 2 is written.
EPOCHS: list[dict[str, Any]] = [{"kill_at": 38}, {"kill_at": 90}, {"kill_in_save": 3}]
BATCHES: list[dict[str, Any]] = [{"kill_at": 20}, {"kill_at": 90}, {"kill_in_save": 5}]


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run ends with that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    return server.run("train_loop", folder=folder, name="whole")["report"]


@pytest.mark.parametrize("kills", [EPOCHS, BATCHES], ids=["epochs", "batches"])
def test_a_killed_loop_ends_as_one_that_was_not(
    server: Server, whole: Any, kills: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A-77: three times SIGKILL in one run, once inside a save; results included."""
    options = {"folder": tmp_path, "iteration_save_freq": 7 if kills is BATCHES else 0}
    before = None
    for number, kill in enumerate(kills if FULL else kills[1:]):
        name = f"part-{number}"
        ended = server.run("train_loop", name=name, continues=before, **kill, **options)
        assert ended["signal"] == signal.SIGKILL, ended
        before = name if saved(tmp_path, name) else before
    assert before is not None
    ended = server.run("train_loop", name="last", continues=before, **options)
    assert ended["report"] == whole, ended

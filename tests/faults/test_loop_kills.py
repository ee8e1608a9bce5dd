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
    return outcome(server.run("train_loop", folder=folder, name="whole"))


def outcome(ended: Any) -> dict[str, Any]:
    """Return what a run ended with."""
    assert ended["report"] is not None, ended
    assert "interrupted" not in ended["report"], ended
    return {key: value for key, value in ended["report"].items() if key != "times"}


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
    assert outcome(ended) == whole, ended


@pytest.mark.parametrize(
    ("kill", "number", "saves"),
    [
        ({"kill_at": 20}, signal.SIGTERM, "E0_ITER20"),
        ({"kill_at": 20}, signal.SIGINT, "E0_ITER20"),
        ({"kill_at": 37}, signal.SIGTERM, "E0_ITER37"),  # the last batch of an epoch
        ({"kill_in_evaluation": 1}, signal.SIGTERM, "E1"),  # when the epoch's end is done
        ({"kill_at": 45, "iteration_save_freq": 7}, signal.SIGUSR1, "E1_ITER45"),
    ],
    ids=["batch", "interrupt", "last-batch", "evaluation", "iterations"],
)
def test_a_loop_that_is_asked_to_stop_saves_first(
    server: Server, whole: Any, kill: dict[str, Any], number: int, saves: str, tmp_path: Path
) -> None:
    """A-77: and goes on from there to the same bits."""
    ended = server.run("train_loop", folder=tmp_path, name="part", number=number, **kill)
    told = ended["report"]["interrupted"]
    name = f"model_experiment_part_{saves}.pth"
    assert name in told, ended
    if number == signal.SIGINT:
        assert told.startswith("KeyboardInterrupt: saved ")
    else:
        assert "goes on from there with ModelLoadContinueTraining('part')" in told
    assert name in saved(tmp_path, "part")
    ended = server.run("train_loop", folder=tmp_path, name="last", continues="part")
    assert outcome(ended) == whole, ended

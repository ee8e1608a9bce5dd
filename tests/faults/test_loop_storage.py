"""TrainLoops with a copy on real servers that are stopped, slow, or cut; and that are killed."""

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.loop_task import saved
from faults.runner import FULL, Server
from faults.servers import S3, GoogleStorage, Line, holds_secret
from faults.test_loop_kills import outcome, whole
from faults.test_storage import hashes

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.faults
__all__ = ["whole"]


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    (tmp_path / "s3").mkdir()
    server = S3(tmp_path / "s3")
    yield server
    server.kill()


def train(server: Server, folder: Path, name: str, s3: S3, **options: Any) -> Any:
    options = {"environment": s3.environment(), "cloud_save_mode": "s3", **options}
    return server.run("train_loop", folder=folder, name=name, timeout=200, **options)


def check_copy(bucket: Path, folder: Path, name: str) -> None:
    """Compare what the server has on its disk with the folder, in which no secret is."""
    experiment = f"project/experiment_{name}"
    there = hashes(bucket / experiment)
    del there["checksums.json"]
    assert there == hashes(folder / experiment)
    assert not [path for path in folder.rglob("*") if path.is_file() and holds_secret(path)]


@pytest.mark.parametrize("fault", ["refused", "503", "slow", "cut"])
def test_a_line_that_is_disturbed(
    fault: str, server: Server, s3: S3, whole: dict[str, Any], tmp_path: Path
) -> None:
    """A-13, A-18: every second connection has the fault; the copy ends whole all the same."""
    line = Line(
        s3.port,
        lambda number: fault if number > 6 and number % 2 else None,
        most_bytes=None if fault == "slow" else 100_000,
    )
    environment = s3.environment(line.port)
    ended = train(server, tmp_path, "run", s3, environment=environment, wait=150)
    line.close()
    assert outcome(ended) == whole
    assert line.num_faults > (0 if fault == "slow" else 2)
    check_copy(s3.bucket, tmp_path, "run")


def test_the_server_is_stopped_in_mid_run(
    server: Server, s3: S3, whole: dict[str, Any], tmp_path: Path
) -> None:
    """The loop goes on at its pace meanwhile, and the copy ends complete."""
    outage, pause = (60.0, 0.6) if FULL else (4.0, 0.06)
    window: list[float] = []

    def stop_and_start() -> None:
        while not list(s3.bucket.rglob("*_E0.pth")):
            time.sleep(0.01)
        s3.kill()
        window.append(time.time())
        time.sleep(outage)
        window.append(time.time())
        s3.start()

    stopper = threading.Thread(target=stop_and_start, daemon=True)
    stopper.start()
    ended = train(server, tmp_path, "run", s3, pause=pause)
    stopper.join(timeout=30)
    assert outcome(ended) == whole
    assert len(window) == 2, ended
    done = [when for when in ended["report"]["times"] if window[0] < when < window[1]]
    assert len(done) >= 0.3 * outage / pause  # a margin for evaluations, and for a busy machine
    check_copy(s3.bucket, tmp_path, "run")


def test_killed_in_mid_upload(
    server: Server, s3: S3, whole: dict[str, Any], tmp_path: Path
) -> None:
    """A-77: over a slow line the copy is behind; going on completes both copies.

    Every second time the run goes on with another folder, as on another machine.
    """
    draws, num_behind = random.Random(1), 0
    for trial in range(10 if FULL else 2):
        folder, part, last = tmp_path / str(trial), f"part-{trial}", f"last-{trial}"
        line = Line(s3.port, lambda number: "slow")
        behind = {"environment": s3.environment(line.port), "pause": 0.005}
        kill = {"kill_at": 38 * draws.randrange(1, 4) + 1}  # the second batch of an epoch
        ended = train(server, folder, part, s3, **behind, **kill)
        line.close()
        assert ended["signal"] == signal.SIGKILL, ended
        there = list((s3.bucket / "project" / f"experiment_{part}").rglob("*.pth"))
        num_behind += len(there) < len(saved(folder, part))
        elsewhere = trial % 2 and there
        goes_on = tmp_path / f"elsewhere-{trial}" if elsewhere else folder
        ended = train(server, goes_on, last, s3, continues=part)
        assert outcome(ended) == whole, ended
        check_copy(s3.bucket, goes_on, last)
        if not elsewhere:
            check_copy(s3.bucket, folder, part)
    assert num_behind > 0


def test_google_storage(server: Server, whole: dict[str, Any], tmp_path: Path) -> None:
    """A-13, A-24: an emulator that starts late; killed, the run goes on from what it has."""
    google = GoogleStorage(tmp_path)
    google.kill()
    starter = threading.Timer(3, google.start)
    starter.start()
    there = {"environment": google.environment(), "cloud_save_mode": "gcs"}
    try:
        ended = server.run(
            "train_loop",
            folder=tmp_path / "1",
            name="part",
            number=signal.SIGTERM,
            kill_at=100,
            pause=0.02,
            **there,
        )
        starter.join()
        assert "ITER100" in ended["report"]["interrupted"], ended
        ended = server.run(
            "train_loop", folder=tmp_path / "2", name="last", continues="part", **there
        )
        assert outcome(ended) == whole, ended
    finally:
        starter.join()
        google.kill()

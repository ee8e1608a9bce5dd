"""Trackers that break under a run: a server killed, one that never answers, a full disk."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
pytest.importorskip("yaml")

from trackers.runs import declared  # noqa: E402

from faults.servers import free_port  # noqa: E402
from loopwright.events import TrainerCallback  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402
from loopwright.trackers import delivery  # noqa: E402

pytestmark = [
    pytest.mark.faults,
    # SQLAlchemy says that about a way in which MLflow asks it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    for package in ("mlflow", "flask", "flask_cors", "graphene", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    port = free_port()
    command += ["--port", str(port), "--backend-store-uri", "sqlite:///server.db"]
    process = subprocess.Popen(
        [*command, "--artifacts-destination", "artifacts"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    end = time.monotonic() + 90
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        assert process.poll() is None, "the server ended at once"
        assert time.monotonic() < end, "the server does not answer"
        time.sleep(0.1)
    yield process
    kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a server and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


class AfterEpoch(TrainerCallback):
    """Does something after an epoch."""

    def __init__(self, epoch: int, action: Any) -> None:
        self.epoch, self.action = epoch, action

    def on_training_run_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.epoch == self.epoch:
            self.action()


def train(*trackers: Any, then: Any = lambda: None, epochs: int = 6) -> dict[str, Any]:
    values = declared(*trackers)
    values["model"]["training"]["epochs"] = epochs
    results = Experiment.from_dict(values).train(callbacks=[AfterEpoch(2, then)])
    Path("run").rename(f"run-{len(list(Path().glob('run-*')))}")
    return results


def assert_told_once(err: str, name: str) -> None:
    lines = [line for line in err.splitlines() if line.startswith("Tracker ")]
    assert len(lines) == 1, err
    assert lines[0].startswith(f"Tracker {name} ")
    assert lines[0].endswith("Training does not wait for it; the run folder holds all.")


def wait_until(is_so: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_server_that_is_killed_in_mid_run(
    mlflow_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    alone = train()
    client = MlflowClient(mlflow_server.url)

    def kill_when_it_holds_an_epoch() -> None:
        def holds_it() -> bool:
            runs = client.search_runs(["0"])
            return bool(runs) and "train_loss_epoch" in runs[0].data.metrics

        wait_until(holds_it)
        kill(mlflow_server)

    began = time.monotonic()
    tracker = {"type": "mlflow", "tracking_uri": mlflow_server.url}
    results = train(tracker, then=kill_when_it_holds_an_epoch)
    assert results["fingerprint"] == alone["fingerprint"]
    assert results["metrics"] == alone["metrics"]
    assert time.monotonic() - began < 60 + delivery.END_SECONDS
    assert_told_once(capsys.readouterr().err, "mlflow")


def test_a_server_that_never_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A socket takes connections and stays silent."""
    pytest.importorskip("mlflow")
    monkeypatch.setattr(delivery, "END_SECONDS", 1.0)
    alone = train()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        results = train({"type": "mlflow", "tracking_uri": url}, "tensorboard")
        assert results["fingerprint"] == alone["fingerprint"]
        assert results["elapsed"]["fit_model"]["duration"] < 15
        assert_told_once(capsys.readouterr().err, "mlflow")
    assert list(Path("run-1/tensorboard").glob("events.out.tfevents.*"))


def test_a_disk_that_is_full(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written stays readable, and what comes when there is room again follows it."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    alone = train()
    filler, folder = small_disk / "filler", small_disk / "tensorboard"

    def fill() -> None:
        wait_until(lambda: "train_loss_epoch" in scalars())
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(512))

    def scalars() -> dict[str, list[int]]:
        reader = EventAccumulator(str(folder))
        reader.Reload()
        names = reader.Tags()["scalars"]
        return {name: [event.step for event in reader.Scalars(name)] for name in names}

    results = train({"type": "tensorboard", "folder": str(folder)}, then=fill, epochs=60)
    assert results["steps"] == 10 * alone["steps"]
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert_told_once(err, "tensorboard")
    steps = scalars()["train_loss_epoch"]
    assert steps == list(range(1, len(steps) + 1))
    assert 1 <= len(steps) < 60

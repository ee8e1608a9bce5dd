"""Runs with a copy at a URL: trained, continued on another machine, declared, from the shell."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny import same, tiny_data, tiny_trainer, weights
from typer.testing import CliRunner

from loopwright import CheckpointPolicy, Experiment
from loopwright.cli import make_app
from loopwright.errors import RunInterrupted, StorageError
from loopwright.events import TrainerCallback
from loopwright.storage import Mirror, fetch, open_storage
from loopwright.storage.local import read_notes
from storage.test_mirror import QUICK, files_in
from storage.wires import Wire, wire

__all__ = ["wire"]

URL = "wire://bucket/run"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine 1"))


def train(place: Any, *callbacks: TrainerCallback, **options: Any) -> Any:
    trainer = tiny_trainer(
        run_dir=place, callbacks=callbacks, checkpoint=CheckpointPolicy(every_steps=2)
    )
    trainer.train(tiny_data(), 3, tiny_data(), per_device_batch_size=4, **options)
    return trainer


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_at_a_url(wire: type[Wire], tmp_path: Path) -> None:
    """The folder is in the cache, the copy is equal to it, and the weights are those of any run."""
    trainer = train(URL)
    assert trainer.run_dir.is_relative_to(tmp_path / "machine 1" / "loopwright" / "remote")
    assert files_in(fetch(URL, tmp_path / "back")) == files_in(trainer.run_dir)
    status = json.loads(open_storage(URL).read("status.json"))
    assert status["status"] == "finished"
    assert same(weights(trainer), weights(train(tmp_path / "plain")))
    trainer.evaluate(tiny_data(), per_device_batch_size=4)
    assert b'"event": "evaluation"' in open_storage(URL).read("metrics.jsonl")


def test_a_run_goes_on_from_its_copy_on_another_machine(
    wire: type[Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "plain")
    with pytest.raises(RunInterrupted):
        train(URL, StopAt(5))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine 2"))
    with pytest.raises(StorageError, match="holds the copy of another run"):
        train(URL)
    trainer = train(URL, resume="latest")
    assert trainer.run_dir.is_relative_to(tmp_path / "machine 2")
    assert same(weights(trainer), weights(whole))
    assert files_in(fetch(URL, tmp_path / "back")) == files_in(trainer.run_dir)
    again = train(URL, resume="latest")
    assert same(weights(again), weights(whole))


def test_resume_takes_the_url_of_a_copy(wire: type[Wire], tmp_path: Path) -> None:
    whole = train(tmp_path / "plain")
    with pytest.raises(RunInterrupted):
        train(URL, StopAt(5))
    trainer = train(tmp_path / "other", resume=URL)
    assert same(weights(trainer), weights(whole))


def test_a_server_that_is_down_does_not_matter_to_the_run(
    wire: type[Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(what: str, name: str) -> None:
        raise ConnectionRefusedError("refused")

    wire.on_call = down
    folder = tmp_path / "run"
    mirror = Mirror(URL, folder, backoff=QUICK, wait_seconds=0.1)
    trainer = train(mirror)
    assert trainer.run_dir == folder
    assert same(weights(trainer), weights(train(tmp_path / "plain")))
    told = capsys.readouterr().out
    assert told.count("the run goes on") == 1
    assert f"loopwright push {folder}" in told
    wire.on_call = None
    assert mirror.wait(20)
    assert files_in(fetch(URL, tmp_path / "back")) == files_in(folder)


def test_resuming_needs_the_copy_or_the_folder(wire: type[Wire], tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        train(Mirror(URL, tmp_path / "run"), StopAt(5))

    def down(what: str, name: str) -> None:
        raise FileExistsError("out of order")

    monkey = pytest.MonkeyPatch()
    monkey.setattr("loopwright.storage.fetching._ATTEMPTS", 1)
    wire.on_call = down
    with pytest.raises(StorageError, match="Whether there is a run to go on with is not known"):
        train(Mirror(URL, tmp_path / "new"), resume="latest")
    mirror = Mirror(URL, tmp_path / "run", wait_seconds=0.01, backoff=QUICK)
    trainer = train(mirror, resume="latest")
    assert trainer.progress.step == 9
    monkey.undo()
    wire.on_call = None
    assert mirror.wait(20)


def test_a_folder_that_had_a_copy_keeps_it(wire: type[Wire], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RunInterrupted):
        train(Mirror(URL, folder), StopAt(5))
    train(folder, resume="latest")
    assert files_in(fetch(URL, tmp_path / "back")) == files_in(folder)
    assert read_notes(tmp_path / "back").url == ""  # type: ignore[union-attr]
    assert Mirror.of(tmp_path / "back") is None


def test_a_path_that_was_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="give the URL as"):
        tiny_trainer(run_dir=Path("s3://bucket/run"))


def declared(folder: str) -> dict[str, Any]:
    training = {
        "epochs": 2,
        "batch_size": 64,
        "optimizer": {"type": "sgd", "lr": 0.1},
        "loss": "cross_entropy",
    }
    return {
        "dataset": {"dataset": {"type": "digits"}, "samples": {"train": 128, "test": 64}},
        "model": {"model": {"type": "mlp", "hidden": [8]}, "training": training},
        "run": {"folder": folder, "seed": 1, "checkpoint": {"every_epochs": 1}},
    }


def test_a_declared_run_at_a_url(
    wire: type[Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.from_dict(declared(URL))
    results = experiment.train()
    copy = files_in(fetch(URL, tmp_path / "back"))
    assert copy == files_in(results["run_folder"])
    assert "test_loss" in json.loads(copy["results.json"])["metrics"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine 2"))
    again = Experiment.from_dict(declared(URL)).train(resume=True)
    assert again["metrics"] == results["metrics"]
    assert again["run_folder"].is_relative_to(tmp_path / "machine 2")


def test_push_and_fetch_from_the_shell(wire: type[Wire], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder)
    shell = CliRunner()
    unknown = shell.invoke(make_app(), ["push", str(folder)])
    assert unknown.exit_code == 2
    pushed = shell.invoke(make_app(), ["push", str(folder), "--to", URL])
    assert pushed.exit_code == 0, pushed.output
    assert f"{URL} is complete" in pushed.output
    assert shell.invoke(make_app(), ["push", str(folder)]).exit_code == 0
    fetched = shell.invoke(make_app(), ["fetch", URL, str(tmp_path / "back")])
    assert fetched.exit_code == 0, fetched.output
    assert files_in(tmp_path / "back") == files_in(folder)
    missing = shell.invoke(make_app(), ["fetch", "wire://bucket/none", str(tmp_path / "x")])
    assert missing.exit_code == 2

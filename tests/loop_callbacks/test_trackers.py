"""TensorBoard, read back by its own reader; wandb offline; logs to upload; and failures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from loops import AbstractCallback, TwoHeads, make_loop
from tracking.models import Uploads

from loopwright.loop_callbacks import (
    AlertConfig,
    LogUpload,
    TensorboardFullTracking,
    TensorboardTrainBatchLoss,
    TensorboardTrainHistoryMetric,
    WandBTracking,
)
from loopwright.loop_callbacks.trackers import BatchLosses, latest_metrics, without_harm
from loopwright.tracking import TrainingHistory

tensorboard = pytest.importorskip("tensorboard")


def details(tmp_path: Path) -> dict[str, Any]:
    return {
        "project_name": "project",
        "experiment_name": "trial",
        "local_model_result_folder_path": str(tmp_path),
        "cloud_save_mode": "local",
    }


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) pairs by name, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {
        name: [(event.step, event.value) for event in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }


class BatchLoss(AbstractCallback):
    """Keeps the losses of all batches."""

    def __init__(self) -> None:
        super().__init__("losses")
        self.losses: list[Any] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.train_loop_obj.loss_batch_accum[-1])


def test_batches_and_epochs_reach_tensorboard(tmp_path: Path) -> None:
    loop, seen = make_loop(), BatchLoss()
    tracking = TensorboardFullTracking(batch_log_frequency=3, **details(tmp_path))
    loop.fit(num_epochs=2, callbacks=[tracking, seen])
    folder = tmp_path / "project" / f"trial_{loop.experiment_timestamp}" / "tensorboard"
    found = scalars(folder)
    last = found["train_loss/last_batch_loss"]
    assert [step for step, _ in last] == [0, 3, 6]
    assert [value for _, value in last] == pytest.approx([float(seen.losses[i]) for i in (0, 3, 6)])
    mean = float(torch.stack(seen.losses[4:7]).mean())
    assert found["train_loss/accumulated_batch_loss"][2] == (6, pytest.approx(mean))
    expected = list(enumerate(pytest.approx(v) for v in loop.train_history["val_loss"]))
    assert found["loss/val_loss"] == expected


def test_chosen_metrics_reach_a_folder_of_ones_own(tmp_path: Path) -> None:
    loop = make_loop()
    loop.insert_metric_result_into_history("score", {"macro": 0.5})
    tracking = TensorboardTrainHistoryMetric(["score_macro"], str(tmp_path), is_project=False)
    loop.fit(num_epochs=1, callbacks=[tracking])
    assert scalars(tmp_path) == {"metrics/score_macro": [(0, 0.5)]}
    [file] = tmp_path.iterdir()
    assert file.name.endswith(f"_{loop.experiment_timestamp}")


def test_several_losses_reach_tensorboard_by_name(tmp_path: Path) -> None:
    tracking = TensorboardTrainBatchLoss(log_dir=str(tmp_path), is_project=False)
    make_loop(model=TwoHeads()).fit(num_epochs=1, callbacks=[tracking])
    found = scalars(tmp_path)
    assert len(found["train_loss/last_batch_first"]) == 4
    assert len(found["train_loss/accumulated_batch_second"]) == 4


def test_tensorboard_files_are_uploaded(tmp_path: Path) -> None:
    uploads, loop = Uploads(), make_loop()
    tracking = TensorboardTrainHistoryMetric(**details(tmp_path))
    loop.callbacks_handler.register_callbacks([tracking])
    tracking.uploader = uploads
    loop.fit(num_epochs=1)
    [name] = uploads.files
    assert name.startswith(f"project/trial_{loop.experiment_timestamp}/tensorboard/events.out")


def test_a68_the_folder_waits_for_something_to_write(tmp_path: Path) -> None:
    make_loop().callbacks_handler.register_callbacks([TensorboardFullTracking(**details(tmp_path))])
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    tracking = TensorboardFullTracking(log_dir=str(tmp_path / "file/deep"), is_project=False)
    loop = make_loop()
    loop.fit(num_epochs=1, callbacks=[tracking])
    assert len(loop.train_history["loss"]) == 1
    assert "Writing for TensorBoard failed: " in capsys.readouterr().err


def test_mistakes_in_arguments_are_no_accidents(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        TensorboardFullTracking(batch_log_frequency=0)
    tracking = TensorboardTrainHistoryMetric(["los"], str(tmp_path), is_project=False)
    with pytest.raises(ValueError, match="has no los. There are: loss, acc"):
        make_loop().fit(num_epochs=1, callbacks=[tracking])


def test_batch_losses_are_means_of_the_epoch() -> None:
    reader, losses = BatchLosses(), [torch.tensor(1.0)]
    assert reader.read(losses)["train_loss/accumulated_batch_loss"] == 1.0
    losses += [torch.tensor(2.0), torch.tensor(6.0)]
    assert reader.read(losses) == {
        "train_loss/last_batch_loss": 6.0,
        "train_loss/accumulated_batch_loss": 3.0,
    }
    reader.restart()
    assert reader.read(losses[:1])["train_loss/accumulated_batch_loss"] == 1.0


def test_latest_metrics_are_numbers() -> None:
    history = TrainingHistory() + {"loss": 1.0, "words": "a", "broken": float("nan")}
    assert latest_metrics(history, None) == {"loss": 1.0}


def test_without_harm_tells_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("no network")

    assert without_harm(fail, "Sending") is None
    assert capsys.readouterr().err == "Sending failed: RuntimeError: no network\n"
    assert without_harm(lambda: 3, "Sending") == 3


def test_a_log_is_queued_for_upload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "training.log"
    uploads, loop = Uploads(), make_loop()
    callback = LogUpload(str(log), fail_if_cloud_missing=False, **details(tmp_path))
    loop.callbacks_handler.register_callbacks([callback])
    assert "stays on this machine" in capsys.readouterr().out
    callback.uploader = uploads
    callback.upload_log_file()
    assert "There is no log at" in capsys.readouterr().out
    log.write_text("line\n")
    loop.fit(num_epochs=1)
    name = f"project/trial_{loop.experiment_timestamp}/training.log"
    assert uploads.files == {name: b"line\n"}
    with pytest.raises(ValueError, match="cloud_save_mode is 'local'"):
        make_loop().fit(num_epochs=1, callbacks=[LogUpload(str(log), **details(tmp_path))])


def test_alerts_are_due_on_the_wrong_side() -> None:
    low, high = AlertConfig("score", 0.5), AlertConfig("loss", 2.0, "minimize")
    assert (low.is_due(0.4), low.is_due(0.6)) == (True, False)
    assert (high.is_due(3.0), high.is_due(1.0)) == (True, False)
    with pytest.raises(ValueError, match="expected 'maximize' or 'minimize'"):
        AlertConfig("score", 0.5, "max")  # type: ignore[arg-type]


@pytest.mark.slow
def test_wandb_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    loop = make_loop()
    loop.hyperparams = {"lr": 0.05, "api_key": "hush"}
    tracking = WandBTracking(
        batch_log_frequency=2,
        alerts=[AlertConfig("loss", 0.0, "minimize")],
        project_name="project",
        experiment_name="trial",
        local_model_result_folder_path=str(tmp_path),
    )
    loop.fit(num_epochs=1, callbacks=[tracking])
    folder = tmp_path / "project" / f"trial_{loop.experiment_timestamp}" / "wandb"
    assert list(folder.rglob("*.wandb"))
    assert not any(b"hush" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_wandb_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwright.extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "loopwright\[wandb\]"'):
        WandBTracking()

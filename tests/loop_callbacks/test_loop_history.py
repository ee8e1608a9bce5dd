"""The training history changed, and written into the folder of an experiment (A-101, A-102)."""

import csv
from pathlib import Path
from typing import Any

import pytest
from loops import Recorder, make_loop

from loopwright.loop_callbacks import (
    MetricHistoryRename,
    ModelTrainHistoryFileWriter,
    ModelTrainHistoryPlot,
    TrainHistoryFormatter,
)


def details(tmp_path: Path) -> dict[str, Any]:
    return {
        "project_name": "project",
        "experiment_name": "trial",
        "local_model_result_folder_path": str(tmp_path),
        "cloud_save_mode": "local",
    }


def results(loop: Any, tmp_path: Path) -> Path:
    return tmp_path / "project" / f"trial_{loop.experiment_timestamp}" / "results"


def test_a101_the_history_as_a_table(tmp_path: Path) -> None:
    loop = make_loop()
    writer = ModelTrainHistoryFileWriter(file_format="csv", **details(tmp_path))
    loop.fit(num_epochs=3, callbacks=[writer])
    with (results(loop, tmp_path) / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["val_loss"]) for row in rows] == loop.train_history["val_loss"]


def test_a101_the_history_at_the_end_alone(tmp_path: Path) -> None:
    loop = make_loop(test=None)
    writer = ModelTrainHistoryFileWriter(False, True, "tsv", **details(tmp_path))
    loop.fit(num_epochs=2, callbacks=[writer])
    assert [path.name for path in results(loop, tmp_path).iterdir()] == ["train_end_results.tsv"]


def test_a101_the_history_as_plots(tmp_path: Path) -> None:
    loop = make_loop()
    seen = Recorder(
        lambda loop: loop.message_service.read_messages(
            "ModelTrainHistoryPlot_results_file_local_paths"
        ),
        execution_order=98,
    )
    plot = ModelTrainHistoryPlot(epoch_end=False, train_end=True, **details(tmp_path))
    loop.fit(num_epochs=2, callbacks=[plot, seen])
    folder = results(loop, tmp_path) / "train_end_plots_epoch_1"
    names = ["accumulated_loss.png", "loss.png", "val_loss.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert sorted(seen.calls[-1][1][0]) == [str(folder / name) for name in names]


def test_a68_nothing_is_written_before_there_is_something(tmp_path: Path) -> None:
    loop = make_loop()
    loop.callbacks_handler.register_callbacks([ModelTrainHistoryPlot(**details(tmp_path))])
    assert not list(tmp_path.iterdir())


def test_a102_a_plain_loop_has_no_details() -> None:
    for callback in (ModelTrainHistoryPlot(), ModelTrainHistoryFileWriter()):
        with pytest.raises(AttributeError, match="needs project_name, experiment_name"):
            make_loop().fit(num_epochs=1, callbacks=[callback])


def test_formats_and_moments_are_checked() -> None:
    with pytest.raises(ValueError, match="expected one of png, pdf"):
        ModelTrainHistoryPlot(file_format="svg")
    with pytest.raises(ValueError, match="expected one of txt, tsv, csv"):
        ModelTrainHistoryFileWriter(file_format="xls")
    with pytest.raises(ValueError, match="nothing would be written"):
        ModelTrainHistoryFileWriter(epoch_end=False)


def test_a_table_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    first = make_loop()
    first.fit(
        num_epochs=1,
        callbacks=[ModelTrainHistoryFileWriter(file_format="csv", **details(tmp_path))],
    )
    second = make_loop()
    second.experiment_timestamp = "later"
    second.continue_from(first.checkpoint_content())
    second.fit(
        num_epochs=2,
        callbacks=[ModelTrainHistoryFileWriter(file_format="csv", **details(tmp_path))],
    )
    lines = (results(second, tmp_path) / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["Epoch", "0", "1"]


def test_a_metric_is_recorded_in_another_form() -> None:
    loop = make_loop()
    halved = TrainHistoryFormatter(
        lambda history: history["loss"], lambda values: ("half", values[-1] / 2)
    )
    loop.fit(num_epochs=2, callbacks=[halved, MetricHistoryRename("loss", "again")])
    losses = loop.train_history["loss"]
    assert loop.train_history["half"] == [loss / 2 for loss in losses]
    assert loop.train_history["again"] == losses


def test_a_metric_is_recorded_after_training() -> None:
    loop = make_loop()
    rename = MetricHistoryRename(lambda history: history["loss"], "final", False, True)
    loop.fit(num_epochs=2, callbacks=[rename])
    assert loop.train_history["final"] == [loop.train_history["loss"][-1]]


def test_a_metric_without_a_new_value_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    """Losses are evaluated in epochs 0 and 2."""
    with pytest.raises(ValueError, match="1 values and no new one"):
        make_loop(end_auto_eval=2).fit(
            num_epochs=2, callbacks=[MetricHistoryRename("loss", "again")]
        )
    loop = make_loop(end_auto_eval=2)
    rename = MetricHistoryRename("loss", "again", strict_metric_extract=False)
    loop.fit(num_epochs=3, callbacks=[rename])
    assert len(loop.train_history["again"]) == 2
    assert "no new one" in capsys.readouterr().out
    with pytest.raises(ValueError, match="both True"):
        MetricHistoryRename("loss", "again", True, True)

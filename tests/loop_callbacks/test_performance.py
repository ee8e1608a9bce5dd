"""Result packages evaluated during training, and reports of them (A-99, A-100)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from loops import make_loop

from loopwright.loop_callbacks import ModelPerformanceEvaluation, ModelPerformancePrintReport
from loopwright.results import (
    AbstractResultPackage,
    ClassificationResultPackage,
    TorchMetricsPackage,
)
from loopwright.seed import set_seed

PACKAGE = ClassificationResultPackage


def accuracy(loop: Any, kind: str) -> float:
    predict = loop.predict_on_train_set if kind == "train" else loop.predict_on_validation_set
    predicted, true, _ = predict(force_prediction=True)
    return float((predicted == true).double().mean())


def test_a99_results_go_into_the_history() -> None:
    loop = make_loop()
    callback = ModelPerformanceEvaluation(PACKAGE(), {"lr": 0.1}, on_train_data=True)
    loop.fit(num_epochs=2, callbacks=[callback])
    history = loop.train_history
    assert len(history["train_Accuracy"]) == len(history["val_Accuracy"]) == 2
    for kind in ("train", "val"):
        assert history[f"train_end_{kind}_Accuracy"] == [history[f"{kind}_Accuracy"][-1]]
    assert history["val_Accuracy"][-1] == accuracy(loop, "val")
    assert callback.result_package.get_hyperparameters() == {"lr": 0.1}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"val_Accuracy": 5, "train_end_val_Accuracy": 1}),
        ({"on_each_epoch": False}, {"train_end_val_Accuracy": 1}),
        ({"eval_frequency": 2}, {"val_Accuracy": 3, "train_end_val_Accuracy": 1}),
        (
            {"on_train_data": True, "on_val_data": False},
            {"train_Accuracy": 5, "train_end_train_Accuracy": 1},
        ),
    ],
)
def test_a99_when_and_on_what(options: dict[str, Any], expected: dict[str, int]) -> None:
    loop = make_loop(end_auto_eval=False)
    loop.fit(num_epochs=5, callbacks=[ModelPerformanceEvaluation(PACKAGE(), {}, **options)])
    counts = {name: len(values) for name, values in loop.train_history.items()}
    assert {name: n for name, n in counts.items() if "Accuracy" in name} == expected


def test_a99_something_has_to_be_evaluated() -> None:
    with pytest.raises(ValueError, match="both False"):
        ModelPerformanceEvaluation(PACKAGE(), {}, on_train_data=False, on_val_data=False)
    with pytest.raises(ValueError, match="expected 1 or more, or None"):
        ModelPerformanceEvaluation(PACKAGE(), {}, eval_frequency=0)
    with pytest.raises(ValueError, match="the loop has no validation loader"):
        make_loop(val=None).fit(num_epochs=1, callbacks=[ModelPerformanceEvaluation(PACKAGE(), {})])


class NeedsLoss(AbstractResultPackage):
    """Reports the loss and the metadata that it is given, and an array."""

    def __init__(self) -> None:
        super().__init__("NeedsLoss")
        self.requires_loss = True
        self.where: tuple[str, ...] = ()

    def prepare_results_dict(self) -> dict[str, Any]:
        assert self.additional_results is not None
        given = self.additional_results["additional_results"]
        return {"loss": given["loss"], "rows": len(given["rows"]), "array": np.ones(2)}

    def set_experiment_dir_path_for_additional_results(self, *where: str) -> None:
        self.where = where


def test_packages_get_loss_metadata_and_folder(tmp_path: Path) -> None:
    loop = make_loop()
    loop.project_name, loop.experiment_name = "project", "trial"
    loop.local_model_result_folder_path = str(tmp_path)
    package = NeedsLoss()
    loop.fit(num_epochs=1, callbacks=[ModelPerformanceEvaluation(package, {}, on_train_data=True)])
    history = loop.train_history
    assert history["val_loss"] == [history["val_loss"][0]] * 2, "evaluated, and by the package"
    assert history["train_rows"] == [14]
    assert history["val_rows"] == [9]
    assert history["val_array"] == [[1.0, 1.0]]
    assert package.where == ("project", "trial", loop.experiment_timestamp, str(tmp_path))


def test_states_of_torchmetrics_hold_one_evaluation() -> None:
    metric = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro")
    package = TorchMetricsPackage(metric)
    loop = make_loop()
    loop.fit(num_epochs=2, callbacks=[ModelPerformanceEvaluation(package, {})])
    name = "val_MulticlassAccuracy_PTLMetrics"
    assert loop.train_history[name][-1] == pytest.approx(accuracy(loop, "val"))
    assert float(package.metric_compute()) == pytest.approx(accuracy(loop, "val"))
    assert all(isinstance(value, float) for value in loop.train_history[name])


def test_a100_metrics_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [
        ModelPerformancePrintReport(["val_Accuracy", "loss"], list_tracked_metrics=True),
        ModelPerformanceEvaluation(PACKAGE(), {}),
    ]
    loop = make_loop()
    loop.fit(num_epochs=2, callbacks=callbacks)
    lines = capsys.readouterr().out.splitlines()
    history = loop.train_history
    assert lines.count("--- Epoch 1 ---") == 1
    assert f"val_Accuracy: {history['val_Accuracy'][1]}" in lines
    end = lines.index("--- After training ---")
    assert f"train_end_val_Accuracy: {history['train_end_val_Accuracy'][0]}" in lines[end:]
    assert f"loss: {history['loss'][1]}" in lines[end:], "without a value at the end, the last one"
    assert any(line.startswith("Metrics: loss, accumulated_loss, val_loss") for line in lines)


def test_a100_reports_come_as_often_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    make_loop().fit(
        num_epochs=3, callbacks=[ModelPerformancePrintReport(["loss"], report_frequency=2)]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("---")] == [
        "--- Epoch 0 ---",
        "--- Epoch 2 ---",
        "--- After training ---",
    ]
    make_loop().fit(
        num_epochs=1, callbacks=[ModelPerformancePrintReport(["loss"], on_each_epoch=False)]
    )
    assert "--- Epoch 0 ---" not in capsys.readouterr().out


def test_a100_a_missing_metric_raises_when_strict(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"'val_F1' is not in the training history. There are: l"):
        make_loop().fit(num_epochs=1, callbacks=[ModelPerformancePrintReport(["val_F1"])])
    make_loop().fit(
        num_epochs=1,
        callbacks=[ModelPerformancePrintReport(["val_F1"], strict_metric_reporting=False)],
    )
    assert "The metric 'val_F1' is not in the training history" in capsys.readouterr().out
    with pytest.raises(ValueError, match="metrics is empty"):
        ModelPerformancePrintReport([])


def test_evaluating_leaves_training_alone() -> None:
    """The weights are those of a run without the callback."""
    set_seed(5)
    plain = make_loop()
    plain.fit(num_epochs=2)
    set_seed(5)
    watched = make_loop()
    watched.fit(
        num_epochs=2,
        callbacks=[ModelPerformanceEvaluation(PACKAGE(), {}, on_train_data=True)],
    )
    for one, other in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other)

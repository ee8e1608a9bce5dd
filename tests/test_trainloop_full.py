"""The fully tracked example with its callbacks (A-107), and going on from it (A-76, A-77)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from loops import loader, make_loop

from loopwright.loop_callbacks import (
    EarlyStopping,
    ModelLoadContinueTraining,
    ModelPerformanceEvaluation,
    ModelPerformancePrintReport,
    ModelTrainHistoryFileWriter,
    ModelTrainHistoryPlot,
)
from loopwright.loop_schedulers import CosineWithWarmupScheduler, ReduceLROnPlateauMetricScheduler
from loopwright.results import ClassificationResultPackage
from loopwright.seed import preserved_random_states, set_seed
from loopwright.tracking import load_results
from loopwright.trainloop import TrainLoopCheckpointEndSave

pytest.importorskip("matplotlib")


def tracked(folder: Path) -> Any:
    return make_loop(
        TrainLoopCheckpointEndSave,
        "full_tracking",
        "tutorial",
        str(folder),
        {"lr": 0.05},
        ClassificationResultPackage(),
        ClassificationResultPackage(),
        test=loader(9),
        rm_subopt_local_models=True,
        num_best_checkpoints_kept=3,
    )


def callbacks() -> list[Any]:
    package = ClassificationResultPackage()
    return [
        ModelPerformanceEvaluation(package, {}, on_train_data=True, on_val_data=True),
        ModelPerformancePrintReport(["train_Accuracy", "val_Accuracy"]),
        ModelTrainHistoryPlot(epoch_end=False, train_end=True),
        ModelTrainHistoryFileWriter(file_format="csv"),
        EarlyStopping(patience=5),
        CosineWithWarmupScheduler(2, 24),
        ReduceLROnPlateauMetricScheduler("val_Accuracy", mode="max", patience=1),
    ]


def run(loop: Any, num_epochs: int, *more: Any) -> Any:
    loop.fit(num_epochs=num_epochs, callbacks=[*more, *callbacks()])
    return loop


def test_a107_the_fully_tracked_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with preserved_random_states():
        set_seed(2)
        loop = run(tracked(tmp_path), 5)
    folder = tmp_path / "full_tracking" / f"tutorial_{loop.experiment_timestamp}"
    history = loop.train_history
    saved = {path.name.split("_E")[-1] for path in (folder / "checkpoint_model").iterdir()}
    best = sorted(range(5), key=lambda epoch: history["loss"][epoch])[:3]
    assert saved == {f"{epoch}.pth" for epoch in best}
    [path] = (folder / "results").glob("*.json")
    loaded = load_results(path)
    assert loaded["training_history"]["val_Accuracy"] == history["val_Accuracy"]
    name = "ClassificationResult_VAL"
    assert loaded["results"][name]["Accuracy"] == history["train_end_val_Accuracy"][0]
    assert len(loaded["y_true"][name]) == sum(loaded["report"][name]["support"]) == 9
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "hyperparams_list.txt",
        "results/results.csv",
        "results/train_end_plots_epoch_4/val_Accuracy.png",
        "results/plots/ClassificationResult_VAL_confusion_matrix.png",
        f"model/model_tutorial_{loop.experiment_timestamp}.pth",
    } <= names
    assert f"val_Accuracy: {history['val_Accuracy'][-1]}" in capsys.readouterr().out


@pytest.mark.slow
def test_a76_a77_all_callbacks_go_on_exactly(tmp_path: Path) -> None:
    """Weights, rates, history and the table are those of a run that was not interrupted."""
    with preserved_random_states():
        set_seed(2)
        unbroken = run(tracked(tmp_path / "unbroken"), 5)
        set_seed(2)
        first = run(tracked(tmp_path / "broken"), 2)
        second = tracked(tmp_path / "broken")
        second.experiment_timestamp = "continued"
        run(second, 5, ModelLoadContinueTraining(first.experiment_timestamp, epoch_num=1))
    for one, other in zip(
        unbroken.model.state_dict().values(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    rates = [loop.optimizer.param_groups[0]["lr"] for loop in (unbroken, second)]
    assert rates[0] == rates[1]
    assert second.train_history.get_train_history() == unbroken.train_history.get_train_history()
    tables = [
        next((tmp_path / name).rglob(f"*{loop.experiment_timestamp}/results/results.csv"))
        for name, loop in (("unbroken", unbroken), ("broken", second))
    ]
    assert tables[0].read_text() == tables[1].read_text()

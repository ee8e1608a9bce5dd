"""The TrainLoops that keep the experiment, and predictions without training."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Recorder, TinyModel, adam, loader, make_loop, mean_loss, state_of
from tiny import same, tiny_data
from torch import nn

import loopwright
from loopwright import TrainLoopCheckpoint, TrainLoopCheckpointEndSave, TrainLoopEndSave
from loopwright.errors import CheckpointError
from loopwright.loop_callbacks import (
    EarlyStopping,
    GradNormClip,
    ModelLoadContinueTraining,
    ModelPerformanceEvaluation,
    ModelPerformancePrintReport,
    ModelTrainEndSave,
)
from loopwright.loop_schedulers import LinearWithWarmupScheduler, ReduceLROnPlateauScheduler
from loopwright.results import (
    AbstractResultPackage,
    ClassificationResultPackage,
    GeneralResultPackage,
)
from loopwright.results.basic_metrics import AccuracyMetric
from loopwright.seed import set_seed
from loopwright.tracking import load_results
from loopwright.trainloop import PyTorchModelPredictor, TrainLoop

pytest.importorskip("matplotlib")

DETAILS = {"project_name": "project", "experiment_name": "experiment"}
SIX = ["model", "train_loader", "validation_loader", "test_loader", "optimizer", "criterion"]
EXPERIMENT = [*DETAILS, "local_model_result_folder_path", "hyperparams"]
PACKAGES = ["val_result_package", "test_result_package"]
CLOUD = ["cloud_save_mode", "bucket_name", "cloud_dir_prefix", "source_dirs"]
KEPT = ["rm_subopt_local_models", "num_best_checkpoints_kept", "iteration_save_freq"]
REST = [
    *("collate_batch_pred_fn", "pred_transform_fn", "end_auto_eval", "lazy_experiment_save"),
    *("print_callbacks", "gpu_mode", "cuda_device_idx", "use_amp"),
    "step_mode",  # by keyword only
]
ORDER = {
    "TrainLoop": [*SIX, *REST],
    "TrainLoopCheckpoint": [*SIX, *EXPERIMENT, *CLOUD, *KEPT, *REST],
    "TrainLoopEndSave": [*SIX, *EXPERIMENT, *PACKAGES, *CLOUD, *REST],
    "TrainLoopCheckpointEndSave": [*SIX, *EXPERIMENT, *PACKAGES, *CLOUD, *KEPT, *REST],
}
DEFAULTS = {
    "cloud_save_mode": None,
    "bucket_name": "model-result",
    "cloud_dir_prefix": "",
    "source_dirs": (),
    "rm_subopt_local_models": False,
    "num_best_checkpoints_kept": 2,
    "iteration_save_freq": 0,
    "end_auto_eval": True,
    "lazy_experiment_save": False,
    "print_callbacks": False,
    "gpu_mode": "single",
    "cuda_device_idx": None,
    "use_amp": False,
    "step_mode": "eager",
}


@pytest.mark.parametrize("name", ORDER)
def test_arguments_have_the_documented_order(name: str) -> None:
    """A-01, A-04, A-11, A-14, A-16, A-21, A-22; A-23 with a safer default for the cloud."""
    namespace: dict[str, Any] = {}
    exec("from loopwright.trainloop import *", namespace)
    assert namespace[name] is getattr(loopwright, name)
    parameters = inspect.signature(namespace[name]).parameters
    assert list(parameters) == ORDER[name]
    for parameter, default in DEFAULTS.items():
        if parameter in parameters:
            assert parameters[parameter].default == default


def experiment(cls: Any, folder: Any, *, name: str = "", **options: Any) -> Any:
    """Return a loop that saves below a folder, under a time of its own."""
    set_seed(5)
    if cls is not TrainLoopCheckpoint:
        options.setdefault("test_result_package", ClassificationResultPackage())
    options.setdefault("hyperparams", {"lr": 0.05, "betas": (0.9, 0.999)})
    options.setdefault("test", loader(5))
    loop = make_loop(cls, **DETAILS, local_model_result_folder_path=folder, **options)
    loop.experiment_timestamp = name or loop.experiment_timestamp
    return loop


def files(folder: Path, loop: Any) -> list[str]:
    root = folder / "project" / f"experiment_{loop.experiment_timestamp}"
    stem = f"experiment_{loop.experiment_timestamp}"
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name.replace(stem, "X") for name in found)


def test_a_checkpoint_after_every_epoch(tmp_path: Path) -> None:
    """A-08, A-12, A-13, A-60, A-61: of the same training; the hyperparameters stay the caller's."""
    hyperparams = {"lr": 0.05}
    set_seed(5)
    plain = make_loop(test=loader(5))
    plain.fit(3)
    loop = experiment(TrainLoopCheckpoint, tmp_path, hyperparams=hyperparams)
    loop.fit(3)
    assert same(state_of(plain), state_of(loop))
    assert loop.train_history.train_history == plain.train_history.train_history
    saved = [name for name in files(tmp_path, loop) if name.endswith(".pth")]
    assert saved == [f"checkpoint_model/model_X_E{epoch}.pth" for epoch in range(3)]
    assert "hyperparams_list.txt" in files(tmp_path, loop)
    assert hyperparams == {"lr": 0.05}
    assert set(loop.hyperparams) == {"lr", "experiment_file_path", "source_dirs_paths"}
    root = tmp_path / "project" / f"experiment_{loop.experiment_timestamp}"
    content = torch.load(next(root.rglob("*_E2.pth")), weights_only=True)
    assert (content["epoch"], content["hyperparams"]["lr"]) == (2, 0.05)
    assert same(content["model_state_dict"].values(), state_of(loop))


def test_the_end_is_evaluated_and_saved(tmp_path: Path) -> None:
    """A-09, A-15, A-17, A-62, A-73."""
    packages = {
        "val_result_package": ClassificationResultPackage(),
        "test_result_package": ClassificationResultPackage(),
    }
    loop = experiment(TrainLoopEndSave, tmp_path, **packages)
    model = loop.fit(2)
    names = files(tmp_path, loop)
    assert [name for name in names if name.endswith(".pth")] == ["model/model_X.pth"]
    root = tmp_path / "project" / f"experiment_{loop.experiment_timestamp}"
    results = load_results(next(root.glob("results/results_hyperParams_hist_*.json")))
    assert "_VAL" in json.dumps(results["results"])
    assert "_TEST" in json.dumps(results["results"])
    assert packages["val_result_package"].pkg_name.endswith("_VAL")
    predictions, targets, _ = loop.predict_on_validation_set()
    accuracy = (predictions == targets).double().mean().item()
    assert packages["val_result_package"].get_results()["Accuracy"] == pytest.approx(accuracy)
    content = torch.load(root / "model" / f"model_{root.name}.pth", weights_only=True)
    assert same(content["model_state_dict"].values(), model.state_dict().values())


def test_both_at_once(tmp_path: Path) -> None:
    """A-16: and a package given twice is evaluated twice."""
    package = ClassificationResultPackage()
    loop = experiment(
        TrainLoopCheckpointEndSave,
        tmp_path,
        val_result_package=package,
        test_result_package=package,
    )
    loop.fit(2)
    saved = [name for name in files(tmp_path, loop) if name.endswith(".pth")]
    assert saved == [*(f"checkpoint_model/model_X_E{e}.pth" for e in (0, 1)), "model/model_X.pth"]
    assert loop.val_result_package is package
    assert len(loop.val_result_package.y_true) == 9
    assert len(loop.test_result_package.y_true) == 5


@pytest.mark.parametrize(("accumulation", "batches"), [(1, [3, 6, 9]), (2, [3, 7, 9])])
def test_checkpoints_between_epochs(tmp_path: Path, accumulation: int, batches: list[int]) -> None:
    """A-61, A-70: every 3 batches, when the update that the batch is in is complete."""
    loop = experiment(TrainLoopCheckpoint, tmp_path, iteration_save_freq=3)
    loop.fit(3, grad_accumulation=accumulation)
    saved = [name for name in files(tmp_path, loop) if name.endswith(".pth")]
    assert saved == [f"checkpoint_model/model_X_E{i // 4}_ITER{i}.pth" for i in batches]


@pytest.mark.parametrize("freq", [0, 2])
def test_the_best_checkpoints_stay(tmp_path: Path, freq: int) -> None:
    """A-69."""
    losses = iter([5.0, 3.0, 4.0, 1.0])

    class Metric(Recorder):
        def on_epoch_end(self) -> None:
            self.train_loop_obj.insert_metric_result_into_history("my_loss", next(losses))

    loop = experiment(
        TrainLoopCheckpoint,
        tmp_path,
        rm_subopt_local_models="my_loss",
        num_best_checkpoints_kept=2,
        iteration_save_freq=freq,
    )
    loop.fit(4, callbacks=[Metric()])
    saved = [name for name in files(tmp_path, loop) if name.endswith(".pth")]
    assert {name.split("_E")[1][0] for name in saved} == {"1", "3"}


def test_what_the_saving_loops_refuse(tmp_path: Path) -> None:
    """A-70, A-71, A-72."""
    with pytest.raises(ValueError, match="iteration_save_freq is -1; expected a number of batches"):
        experiment(TrainLoopCheckpoint, tmp_path, iteration_save_freq=-1)
    package = ClassificationResultPackage()
    with pytest.raises(ValueError, match="are both None; give one of them"):
        experiment(TrainLoopEndSave, tmp_path, test_result_package=None)
    with pytest.raises(
        ValueError, match="val_result_package is given, and .* no validation loader"
    ):
        experiment(TrainLoopEndSave, tmp_path, val=None, val_result_package=package)
    with pytest.raises(TypeError, match="test_result_package is ClassificationResultPackage; exp"):
        experiment(TrainLoopEndSave, tmp_path, test_result_package=ClassificationResultPackage)
    loop = experiment(TrainLoopCheckpoint, tmp_path)
    loop.optimizer = object()
    with pytest.raises(AttributeError, match=r"a object, has no state_dict\(\)"):
        loop.fit(1)
    assert list(tmp_path.iterdir()) == []


def test_a_lazy_experiment_makes_no_folder_before_it_saves(tmp_path: Path) -> None:
    """A-68."""
    for lazy, there in ((False, True), (True, False)):
        folder = tmp_path / str(lazy)
        recorder = Recorder(lambda loop, folder=folder: folder.exists())
        loop = experiment(TrainLoopCheckpoint, folder, lazy_experiment_save=lazy)
        loop.fit(1, callbacks=[recorder])
        assert recorder.calls[1] == ("train begin", there)
        assert "hyperparams_list.txt" in files(folder, loop)


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A-25."""
    monkeypatch.setenv("HOME", str(tmp_path))
    loop = experiment(TrainLoopCheckpoint, "~/results")
    loop.fit(1)
    assert (tmp_path / "results" / "project").is_dir()


class NeedsLoss(AbstractResultPackage):
    """Reports the loss that it is handed."""

    def __init__(self) -> None:
        super().__init__("needs loss")
        self.requires_loss = True

    def prepare_results_dict(self) -> dict[str, Any]:
        assert self.additional_results is not None
        return {"given": self.additional_results["additional_results"]["loss"]}


def test_a_package_may_ask_for_the_loss(tmp_path: Path) -> None:
    loop = experiment(TrainLoopEndSave, tmp_path, test_result_package=NeedsLoss())
    loop.fit(1)
    expected = loop.train_history["train_end_test_loss"]
    assert [loop.test_result_package.get_results()["given"]] == expected


RUNS = {
    "epochs": (TrainLoopCheckpoint, {}),
    "batches": (TrainLoopCheckpoint, {"iteration_save_freq": 3}),
    "both": (TrainLoopCheckpointEndSave, {}),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_saved_experiment_goes_on_exactly(kind: str, tmp_path: Path) -> None:
    """A-75, A-76, A-77: from the newest checkpoint, results included."""
    cls, options = RUNS[kind]
    whole = experiment(cls, tmp_path, name="whole", **options)
    whole.fit(4)
    part = experiment(cls, tmp_path, name="part", **options)
    part.fit(num_iterations=7 if kind == "batches" else 8)
    again = experiment(cls, tmp_path, name="again", **options)
    set_seed(99)
    again.fit(4, callbacks=[ModelLoadContinueTraining("part")])
    assert same(state_of(whole), state_of(again))
    assert str(whole.optimizer.state_dict()) == str(again.optimizer.state_dict())
    assert again.train_history.train_history == whole.train_history.train_history
    if kind == "both":
        found = [
            load_results(next((tmp_path / "project" / f"experiment_{name}").rglob("*.json")))
            for name in ("whole", "again")
        ]
        assert str(found[0]["results"]) == str(found[1]["results"])
        assert found[0]["training_history"] == found[1]["training_history"]


def test_a_chosen_epoch_goes_on(tmp_path: Path) -> None:
    """A-76: with the details given to the callback, in a loop that has none."""
    whole = experiment(TrainLoopCheckpoint, tmp_path, name="whole")
    whole.fit(3)
    loop = make_loop(test=loader(5))
    details = {**DETAILS, "local_model_result_folder_path": tmp_path, "cloud_save_mode": "local"}
    loop.fit(3, callbacks=[ModelLoadContinueTraining("whole", epoch_num=0, **details)])
    assert same(state_of(whole), state_of(loop))
    with pytest.raises(AttributeError, match="needs project_name"):
        make_loop().fit(3, callbacks=[ModelLoadContinueTraining("whole")])


def test_schedulers_are_accepted_or_refused(tmp_path: Path) -> None:
    """A-76."""
    from test_trainloop_continue import Schedule

    whole = experiment(TrainLoopCheckpoint, tmp_path, name="whole")
    whole.fit(1)
    for accept in (False, True):
        loop = experiment(TrainLoopCheckpoint, tmp_path, name=f"again {accept}")
        restore = ModelLoadContinueTraining("whole", ignore_missing_saved_schedulers=accept)
        if accept:
            loop.fit(2, callbacks=[restore, Schedule()])
            continue
        with pytest.raises(CheckpointError, match="has 0 schedulers and this loop 1"):
            loop.fit(2, callbacks=[restore, Schedule()])


def test_the_callback_refuses_what_is_no_result_package() -> None:
    """A-72."""
    with pytest.raises(TypeError, match="val_result_package is int"):
        ModelTrainEndSave("p", "e", "f", {}, val_result_package=3)  # type: ignore[arg-type]


def predictor() -> tuple[PyTorchModelPredictor, TinyModel]:
    inputs, targets = tiny_data(9)
    model = TinyModel()
    return PyTorchModelPredictor(
        model, list(zip(inputs.split(4), targets.split(4), strict=True))
    ), model


def test_a_predictor_predicts_and_evaluates(tmp_path: Path) -> None:
    """A-106."""
    inputs, targets = tiny_data(9)
    ours, model = predictor()
    predictions, true, metadata = ours.model_predict()
    model.eval()
    assert torch.equal(predictions, model(inputs).argmax(dim=1))
    assert torch.equal(true, targets)
    assert len(metadata["rows"]) == 9
    data = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    for criterion in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.2)):
        expected = mean_loss(model, data, criterion)
        assert ours.model_get_loss(criterion).item() == pytest.approx(expected, abs=1e-7)
    accuracy = (predictions == targets).double().mean().item()
    package = ours.evaluate_result_package(ClassificationResultPackage())
    assert package.get_results()["Accuracy"] == pytest.approx(accuracy)
    assert ours.evaluate_metric(AccuracyMetric).get_metric() == accuracy
    assert ours.evaluate_metric(AccuracyMetric, return_metric=False) == {"Accuracy": accuracy}
    assert len(ours.evaluate_metric_list([AccuracyMetric])) == 1
    both = ours.evaluate_metric_list([AccuracyMetric], return_metric_list=False)
    assert both == {"Accuracy": accuracy}
    ours.evaluate_model(GeneralResultPackage([AccuracyMetric]), "project", "experiment", tmp_path)
    found = list(tmp_path.rglob("results_hyperParams_hist_*.json"))
    assert len(found) == 1
    assert load_results(found[0])["training_history"]["Accuracy"] == [pytest.approx(accuracy)]


def test_a_predictor_calls_callbacks() -> None:
    """A-106."""
    recorder = Recorder()
    ours = PyTorchModelPredictor(TinyModel(), [], callbacks=[recorder])
    ours.execute_batch_end_callbacks()
    ours.execute_epoch_end_callbacks()
    assert recorder.names == ["registration", "batch end", "epoch end"]


def test_adam_of_the_documents_needs_no_change() -> None:
    """A-19, A-20."""
    model = TinyModel()
    optimizer = adam(model)
    loop = TrainLoop(model, loader(), None, None, optimizer, nn.CrossEntropyLoss())
    assert loop.fit(num_epochs=1) is model


def test_shipped_callbacks_and_schedulers_go_on_too(tmp_path: Path) -> None:
    """A-77, A-107: what they count and the rates they set are those of the whole run."""
    ends = []
    for name, num_epochs, continues in (("whole", 5, None), ("part", 2, None), ("end", 5, "part")):
        loop = experiment(
            TrainLoopCheckpoint,
            tmp_path,
            name=name,
            rm_subopt_local_models=True,
            num_best_checkpoints_kept=3,
        )
        callbacks = [
            ModelPerformanceEvaluation(ClassificationResultPackage(), {}, on_train_data=True),
            ModelPerformancePrintReport(["train_Accuracy", "val_Accuracy"]),
            EarlyStopping(patience=5),
            ReduceLROnPlateauScheduler(patience=0),
            LinearWithWarmupScheduler(num_warmup_steps=3, num_training_steps=40),
            GradNormClip(0.5),
        ]
        if continues is not None:
            set_seed(99)
            callbacks.append(ModelLoadContinueTraining(continues))
        loop.fit(num_epochs, callbacks=callbacks)
        ends.append((loop, callbacks))
    (whole, counted), _, (end, counted_again) = ends
    assert same(state_of(whole), state_of(end))
    assert end.train_history.train_history == whole.train_history.train_history
    assert str(end.optimizer.state_dict()) == str(whole.optimizer.state_dict())
    assert counted_again[2].state_dict() == counted[2].state_dict()

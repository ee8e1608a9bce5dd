"""Results on disk: one JSON file, labels beside it, and plots (A-62, A-74)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright.results import (
    AbstractResultPackage,
    ClassificationResultPackage,
    PreCalculatedResultPackage,
)
from loopwright.tracking import (
    FullPyTorchExperimentLocalSaver,
    LocalResultsSaver,
    TrainingHistory,
    load_results,
    make_experiment_saver,
)
from tracking.models import Uploads, content

WHERE = ("project", "trial", "T")


def classified(name: str = "ClassificationResult") -> ClassificationResultPackage:
    package = ClassificationResultPackage()
    package.pkg_name = name
    package.num_resamples = 10
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    package.prepare_result_package([0, 1, 1], scores, {"lr": 0.1, "api_token": "hush"})
    return package


def history() -> TrainingHistory:
    found = TrainingHistory(has_validation=False)
    for loss in (0.5, float("inf")):
        found["loss"] = torch.tensor(loss)
    return found


def test_a62_a74_results_are_one_file_of_json_with_labels_beside_it(tmp_path: Path) -> None:
    saver = LocalResultsSaver(tmp_path)
    saved = saver.save_experiment_results(
        classified(), history(), *WHERE, save_true_pred_labels=True
    )
    results = tmp_path / "project" / "trial_T" / "results"
    assert [name for name, _ in saved] == [
        "results_hyperParams_hist_trial_T.json",
        "results_hyperParams_hist_trial_T.npz",
        "plots/loss.png",
        "plots/confusion_matrix.png",
        "plots/per_class.png",
        "plots/roc.png",
        "plots/precision_recall.png",
        "plots/calibration.png",
    ]
    assert all(Path(path) == results / name for name, path in saved)
    assert all(Path(path).is_file() for _, path in saved)
    loaded = load_results(saved[0][1])
    assert loaded["experiment_name"] == "trial"
    assert loaded["results"] == {"Accuracy": pytest.approx(2 / 3)}
    assert loaded["hyperparameters"] == {"lr": 0.1, "api_token": "***"}
    assert loaded["training_history"] == {
        "loss": [0.5, float("inf")],
        "accumulated_loss": [],
    }
    assert loaded["report"]["confusion_matrix"] == [[1, 0], [1, 1]]
    np.testing.assert_array_equal(loaded["y_true"], [0, 1, 1])
    np.testing.assert_array_equal(loaded["y_predicted"], [[2, 1], [0, 3], [1, 0]])
    json.loads(Path(saved[0][1]).read_text(), parse_constant=pytest.fail)  # no NaN or Infinity


def test_a73_a74_labels_of_several_packages(tmp_path: Path) -> None:
    both = classified("Classes_VAL") + classified("Classes_TEST")
    saved = LocalResultsSaver(tmp_path).save_experiment_results(
        both, history(), *WHERE, save_true_pred_labels=True
    )
    loaded = load_results(saved[0][1])
    assert set(loaded["results"]) == set(loaded["y_true"]) == {"Classes_VAL", "Classes_TEST"}
    np.testing.assert_array_equal(loaded["y_true"]["Classes_TEST"], [0, 1, 1])


class Kept(AbstractResultPackage):
    """Keeps rows of different lengths, and returns arrays."""

    def __init__(self) -> None:
        super().__init__("Kept", np_array=False)

    def prepare_results_dict(self) -> dict[str, Any]:
        return {"per_class": np.array([0.25, 0.5]), "tensor": torch.tensor([1.0, 2.0])}


def test_labels_need_no_pickle(tmp_path: Path) -> None:
    """Rows of different lengths and texts are saved too, and nothing is loaded by code."""
    package = Kept()
    package.prepare_result_package([[1], [2, 3]], ["ein", "fuchs"], {})
    saved = LocalResultsSaver(tmp_path).save_experiment_results(
        package, history(), *WHERE, save_true_pred_labels=True
    )
    with np.load(saved[1][1], allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind != "O" for name in arrays.files)
    loaded = load_results(saved[0][1])
    assert loaded["y_true"] == [[1], [2, 3]]
    assert loaded["y_predicted"].tolist() == ["ein", "fuchs"]
    assert loaded["results"] == {"per_class": [0.25, 0.5], "tensor": [1.0, 2.0]}


def test_no_pickle_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loading a pickle executes code"):
        LocalResultsSaver(tmp_path, "pickle")


def test_results_are_saved_where_their_report_and_plots_fail(tmp_path: Path) -> None:
    """Classes 5 and 6 have no column, which the accuracy does not need."""
    package = ClassificationResultPackage()
    package.prepare_result_package([5, 6], [[0.1, 0.9], [0.2, 0.8]], {})
    saver = LocalResultsSaver(tmp_path)
    with pytest.warns(UserWarning, match="The results are saved without (report|plots): Predict"):
        saved = saver.save_experiment_results(package, history(), *WHERE)
    loaded = load_results(saved[0][1])
    assert loaded["results"] == {"Accuracy": 0.0}
    assert loaded["report"] == {}


def test_labels_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"labels_file": "../labels.npz"}))
    with pytest.raises(ValueError, match="labels outside of its folder"):
        load_results(path)


def test_files_of_a_package_are_listed_and_uploaded(tmp_path: Path) -> None:
    extra = tmp_path / "extra.txt"
    extra.write_text("extra")

    class WithFile(PreCalculatedResultPackage):
        def list_additional_results_dump_paths(self) -> list[list[str]]:
            return [["texts/extra.txt", str(extra)]]

    uploads = Uploads()
    saver = LocalResultsSaver(tmp_path, uploader=uploads)
    saver.save_experiment_results(WithFile({"score": 1.0}), history(), *WHERE)
    below = "project/trial_T/results"
    assert uploads.files[f"{below}/texts/extra.txt"] == b"extra"
    assert f"{below}/plots/metrics.png" in uploads.files
    assert f"{below}/results_hyperParams_hist_trial_T.json" in uploads.files


def test_a_whole_experiment_with_separate_files(tmp_path: Path) -> None:
    saver = make_experiment_saver(None, None, None, "project", "trial", tmp_path)
    assert isinstance(saver, FullPyTorchExperimentLocalSaver)
    paths = saver.save_experiment(
        content(), classified(), history(), "T", save_true_pred_labels=True, separate_files=True
    )
    names = [Path(path).name for path in paths]
    assert names[:5] == [
        "model_trial_T.pth",
        "results_trial_T.json",
        "hyperparams_trial_T.json",
        "train_history_trial_T.json",
        "labels_trial_T.npz",
    ]
    loaded = load_results(paths[3])
    assert loaded["training_history"]["loss"] == [0.5, float("inf")]


def test_an_experiment_saver_uploads_model_and_results(tmp_path: Path) -> None:
    uploads = Uploads()
    saver = FullPyTorchExperimentLocalSaver("project", "trial", tmp_path, uploader=uploads)
    paths = saver.save_experiment(content(), classified(), history(), "T")
    assert set(uploads.files) == {str(Path(path).relative_to(tmp_path)) for path in paths}

"""Result packages: what they compute, how they combine and what they draw (A-78 to A-88)."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics

from loopwright.results import (
    AbstractResultPackage,
    AccuracyMetric,
    BinaryClassificationResultPackage,
    ClassificationResultPackage,
    F1ScoreMetric,
    GeneralResultPackage,
    HFEvaluateResultPackage,
    MultipleResultPackageWrapper,
    PreCalculatedResultPackage,
    RegressionResultPackage,
    TorchMetricsPackage,
)

PNG = b"\x89PNG"


class Mean(AbstractResultPackage):
    """Reports the means of both sides."""

    def __init__(self, name: str | None = "Mean", paths: Any = None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.paths = paths

    def prepare_results_dict(self) -> dict[str, Any]:
        return {"true": float(np.mean(self.y_true)), "predicted": float(np.mean(self.y_predicted))}

    def list_additional_results_dump_paths(self) -> Any:
        return self.paths


def evaluated(name: str | None = "Mean", shift: float = 0.0, **kwargs: Any) -> Mean:
    package = Mean(name, **kwargs)
    package.prepare_result_package([1.0, 3.0], [2.0 + shift, 2.0 + shift], {"lr": 0.1})
    return package


def test_a78_a_package_must_say_how_it_evaluates() -> None:
    class Nothing(AbstractResultPackage):
        pass

    with pytest.raises(TypeError, match="prepare_results_dict"):
        Nothing()  # type: ignore[abstract]


def test_a79_preparing_computes_and_results_are_returned() -> None:
    package = Mean(kept="yes")
    package.prepare_result_package([1.0, 3.0], [0.0, 1.0], hyperparameters={"lr": 0.1}, extra=5)
    assert package.get_results() == {"true": 2.0, "predicted": 0.5}
    assert package.get_hyperparameters() == {"lr": 0.1}
    assert package.additional_results == {"extra": 5}
    assert package.package_metadata == {"kept": "yes"}


def test_a80_results_before_there_are_any_warn_or_raise() -> None:
    with pytest.warns(UserWarning, match=r"Mean: There are no results yet. Call prepare_result"):
        assert Mean().get_results() is None
    with pytest.warns(UserWarning, match="No hyperparameters"):
        assert Mean().get_hyperparameters() is None
    with pytest.raises(ValueError, match="There are no results yet"):
        Mean(strict_content_check=True).get_results()


def test_a81_np_array_decides_what_becomes_an_array() -> None:
    class Kept(Mean):
        def prepare_results_dict(self) -> dict[str, Any]:
            return {}

    ragged, even = [[1], [1, 2]], [[1], [2]]
    package = Kept(np_array=True)
    package.prepare_result_package(even, torch.tensor([1.0]))
    assert isinstance(package.y_true, np.ndarray)
    assert isinstance(package.y_predicted, np.ndarray)
    with pytest.raises(ValueError, match="np_array=False"):
        package.prepare_result_package(ragged, even)
    package = Kept(np_array=False)
    package.prepare_result_package(even, even)
    assert package.y_true is even
    package = Kept(np_array="auto")
    package.prepare_result_package(ragged, even)
    assert package.y_true is ragged
    assert isinstance(package.y_predicted, np.ndarray)
    with pytest.raises(ValueError, match="expected True, False or 'auto'"):
        Kept(np_array="guess")


def test_a82_classification_gives_accuracy_of_labels_and_scores() -> None:
    package = ClassificationResultPackage()
    package.prepare_result_package([0, 2, 1], [[3.0, 1, 0], [0, 1, 2], [5, 4, 3]])
    assert package.get_results() == {"Accuracy": pytest.approx(2 / 3)}
    package.prepare_result_package([0, 2], [0, 2])
    assert package.get_results() == {"Accuracy": 1.0}


def test_a83_binary_classification_by_hand() -> None:
    package = BinaryClassificationResultPackage()
    package.prepare_result_package([1, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.4, 0.1])
    results = package.get_results()
    assert results is not None
    assert list(results) == ["Accuracy", "ROC_AUC", "PrecisionRecall_AUC", "F1_score"]
    assert results["Accuracy"] == pytest.approx(3 / 5)
    assert results["ROC_AUC"] == pytest.approx(4 / 6)
    assert results["F1_score"] == pytest.approx(2 / 3)
    strict = BinaryClassificationResultPackage(positive_class_thresh=0.85)
    strict.prepare_result_package([1, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.4, 0.1])
    assert strict["F1_score"] == pytest.approx(0.5)
    assert strict.report().confusion.tolist() == [[2, 0], [2, 1]]


def test_a83_logits_of_both_classes_count_as_their_probabilities() -> None:
    """The logits of 0.6 are below a threshold of 0.7 for accuracy, F1 and the report alike."""
    logits = np.log([[0.4, 0.6], [0.1, 0.9], [0.8, 0.2]]) + 3.0
    package = BinaryClassificationResultPackage(positive_class_thresh=0.7)
    package.prepare_result_package([1, 1, 0], logits)
    assert package["Accuracy"] == pytest.approx(2 / 3)
    assert package["F1_score"] == pytest.approx(2 / 3)
    assert package.report().accuracy == pytest.approx(2 / 3)


def test_a83_regression_gives_both_errors() -> None:
    package = RegressionResultPackage()
    package.prepare_result_package([1.0, 2.0], [2.0, 4.0])
    assert package.get_results() == {"Mean_squared_error": 2.5, "Mean_absolute_error": 1.5}


def test_a84_general_joins_the_metrics_it_is_given() -> None:
    package = GeneralResultPackage([AccuracyMetric, F1ScoreMetric])
    package.prepare_result_package([1, 0], [0.9, 0.8])
    assert package.get_results() == {"Accuracy": 0.5, "F1_score": pytest.approx(2 / 3)}
    assert str(package).startswith("Accuracy: 0.5"), "in the order of the list"
    with pytest.raises(ValueError, match="metrics_list is empty"):
        GeneralResultPackage([])


def test_a85_packages_add_into_a_wrapper_with_an_entry_each() -> None:
    first, second = evaluated(), evaluated(shift=1.0)
    both = first + second
    assert isinstance(both, MultipleResultPackageWrapper)
    assert both.get_results() == {
        "Mean": {"true": 2.0, "predicted": 2.0},
        "Mean1": {"true": 2.0, "predicted": 3.0},
    }
    assert both.get_hyperparameters() == {"lr": 0.1}
    assert both.y_predicted["Mean1"].tolist() == [3.0, 3.0]
    assert len(both + evaluated("Other")) == 3
    assert list((both + both).get_results() or {}) == ["Mean", "Mean1", "Mean2", "Mean3"]
    with_dict = first + {"mine": 1}
    assert with_dict.get_results() == {
        "Mean": {"true": 2.0, "predicted": 2.0},
        "PreCalculatedResult": {"mine": 1},
    }
    assert ({"mine": 1} + first).get_results() == with_dict.get_results()
    first.prepare_result_package([9.0], [9.0])
    assert both["Mean"] == {"true": 2.0, "predicted": 2.0}, "a sum stays when a part goes on"
    assert "--> Mean:\ntrue: 2.0" in str(both)


def test_a85_adding_in_place_merges_and_refuses_repeated_metrics() -> None:
    package = evaluated()
    package += {"mine": 1}
    assert isinstance(package, Mean)
    assert package.get_results() == {"true": 2.0, "predicted": 2.0, "mine": 1}
    with pytest.raises(ValueError, match="Both have predicted, true"):
        package += evaluated()
    with pytest.raises(ValueError, match="not to int"):
        package += 3  # type: ignore[arg-type]
    both = evaluated() + evaluated("Other")
    both += {"mine": 1}
    assert list(both.get_results() or {}) == ["Mean", "Other", "PreCalculatedResult"]


def test_a86_an_evaluated_package_behaves_like_its_results() -> None:
    package = evaluated()
    assert len(package) == 2
    assert "true" in package
    assert "other" not in package
    assert package["predicted"] == 2.0
    assert str(package) == "true: 2.0\npredicted: 2.0"
    with pytest.raises(KeyError, match="There are: true, predicted"):
        package["other"]
    new = Mean()
    for use in (len, str, lambda p: "true" in p, lambda p: p["true"], lambda p: p + {"a": 1}):
        with pytest.raises(ValueError, match="has no results yet"):
            use(new)


def test_a87_additional_files_are_pairs_of_strings() -> None:
    assert evaluated().get_additional_results_dump_paths() is None
    pairs = [["name", "path/name"], ["other", "path/other"]]
    assert evaluated(paths=pairs).get_additional_results_dump_paths() == pairs
    wrapper = evaluated(paths=pairs[:1]) + evaluated("Other", paths=pairs[1:])
    assert wrapper.get_additional_results_dump_paths() == pairs
    for wrong in ("path", ["path"], [["one"]], [["a", 2]], [["a", "b"], "c"], (("a", "b"),)):
        with pytest.raises(ValueError, match=r"list of \[name, path\] pairs of strings"):
            evaluated(paths=wrong).get_additional_results_dump_paths()


def test_a88_torchmetrics_single_and_collection() -> None:
    scores, true = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]]), torch.tensor([0, 1, 1])
    metric = torchmetrics.classification.MulticlassAccuracy(num_classes=2, average="micro")
    package = TorchMetricsPackage(metric)
    package.prepare_result_package(true, scores)
    results = package.get_results()
    assert results == {"MulticlassAccuracy_PTLMetrics": pytest.approx(2 / 3)}
    package.prepare_result_package(true[:2], scores[:2])
    assert float(package.metric_compute()) == pytest.approx(4 / 5), "state of both evaluations"
    package.metric_reset()
    package.prepare_result_package(true[:2].tolist(), scores[:2].numpy())
    assert float(package.metric_compute()) == 1.0
    pair = torchmetrics.MetricCollection(
        [metric.clone(), torchmetrics.classification.MulticlassF1Score(num_classes=2)]
    )
    package = TorchMetricsPackage(pair)
    package.prepare_result_package(true, scores)
    assert set(package.get_results() or {}) == {
        "MulticlassAccuracy_PTLMetrics",
        "MulticlassF1Score_PTLMetrics",
    }


class Compute:
    """Has the part of an `evaluate.EvaluationModule` that a package calls."""

    def compute(self, *, references: Any, predictions: Any, **options: Any) -> dict[str, Any]:
        return {"right": float(np.mean(references == predictions)), **options}


def test_a88_hf_evaluate_gets_metadata_and_arguments() -> None:
    package = HFEvaluateResultPackage(Compute(), normalize=True)
    metadata = {"additional_results": {"lengths": [3]}}
    package.prepare_result_package([1, 2], [1, 3], **metadata)
    assert package.get_results() == {
        "right_HFEvaluate": 0.5,
        "normalize_HFEvaluate": True,
        "lengths_HFEvaluate": [3],
    }
    package = HFEvaluateResultPackage(Compute(), use_models_additional_results=False)
    package.prepare_result_package([1, 2], [1, 3], **metadata)
    assert package.get_results() == {"right_HFEvaluate": 0.5}


WITH_EVALUATE = """
import datasets, evaluate, numpy as np
from loopwright.results import HFEvaluateResultPackage

class Share(evaluate.Metric):
    def _info(self):
        whole = datasets.Value("int64")
        features = datasets.Features({"predictions": whole, "references": whole})
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references):
        return {"share": float(np.mean(np.equal(predictions, references)))}

package = HFEvaluateResultPackage(Share())
package.prepare_result_package([1, 2], [1, 3])
print(package.get_results())
"""


@pytest.mark.system
def test_a88_hf_evaluate_with_the_real_library(tmp_path: Path) -> None:
    """In a program of its own, since here `datasets` is a folder of tests."""
    if find_spec("evaluate") is None:
        pytest.skip("needs evaluate")
    done = subprocess.run(
        [sys.executable, "-c", WITH_EVALUATE],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    assert done.stdout == "{'share_HFEvaluate': 0.5}\n", done.stderr


def test_pre_calculated_results_stay() -> None:
    package = PreCalculatedResultPackage({"mine": 1})
    assert package.get_results() == {"mine": 1}
    package.prepare_result_package([1], [2], {"lr": 1})
    assert package.get_results() == {"mine": 1}
    assert package.get_hyperparameters() == {"lr": 1}


def scores_of(num_classes: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(3)
    true = np.arange(24) % num_classes
    return true, generator.normal(size=(24, num_classes)) + 2 * np.eye(num_classes)[true]


@pytest.mark.parametrize(
    ("package", "data", "names"),
    [
        (
            ClassificationResultPackage(),
            scores_of(3),
            ["confusion_matrix", "per_class", "roc", "precision_recall", "calibration"],
        ),
        (ClassificationResultPackage(), ([0, 1], [0, 0]), ["confusion_matrix", "per_class"]),
        (
            BinaryClassificationResultPackage(),
            ([0, 1, 1], [0.2, 0.6, 0.3]),
            ["confusion_matrix", "per_class", "roc", "precision_recall", "calibration"],
        ),
        (
            RegressionResultPackage(),
            ([0.0, 1.0], [0.5, 1.5]),
            ["predicted_against_true", "residuals"],
        ),
        (GeneralResultPackage([AccuracyMetric]), ([0, 1], [0, 1]), ["metrics"]),
        (HFEvaluateResultPackage(Compute()), ([0, 1], [0, 1]), ["metrics"]),
    ],
)
def test_every_package_draws_its_plots(
    package: AbstractResultPackage, data: Any, names: list[str], tmp_path: Path
) -> None:
    package.prepare_result_package(*data)
    files = package.save_plots(tmp_path)
    assert [file.stem for file in files] == names
    assert all(file.read_bytes().startswith(PNG) for file in files)


def test_a_wrapper_draws_the_plots_of_its_packages(tmp_path: Path) -> None:
    files = (evaluated() + evaluated("Other")).save_plots(tmp_path, file_format="pdf")
    assert [file.name for file in files] == ["Mean_metrics.pdf", "Other_metrics.pdf"]
    assert all(file.read_bytes().startswith(b"%PDF") for file in files)


def test_the_report_of_saved_results_is_plain() -> None:
    package = ClassificationResultPackage()
    package.num_resamples = 20
    package.prepare_result_package(*scores_of(3))
    report = (package + evaluated()).report_dict()
    assert list(report) == ["ClassificationResult"]
    assert report["ClassificationResult"]["support"] == [8, 8, 8]
    assert np.shape(report["ClassificationResult"]["intervals"]["f1"]) == (2, 3)

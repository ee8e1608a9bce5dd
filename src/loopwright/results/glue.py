"""The metrics of the GLUE tasks and of XNLI, computed by scikit-learn and SciPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopwright.extras import require
from loopwright.results.arrays import class_labels
from loopwright.results.metric import AbstractBaseMetric

ACCURACY_TASKS = ("sst-2", "mnli", "mnli-mm", "qnli", "rte", "wnli", "hans")
TASKS = ("cola", "mrpc", "qqp", "sts-b", *ACCURACY_TASKS)


def glue_metrics(task_name: str, y_true: Any, y_predicted: Any) -> dict[str, float]:
    """Return the metrics that a task of GLUE is judged by (Wang et al. 2019, table 1).

    Args:
        task_name: One of `TASKS`.
        y_true: Labels [N]; for sts-b similarities.
        y_predicted: Labels [N] or scores [N, classes]; for sts-b similarities.
    """
    if task_name not in TASKS:
        raise ValueError(f"{task_name!r} is no task of GLUE. The tasks are: {', '.join(TASKS)}.")
    true, predicted = class_labels(y_true), class_labels(y_predicted)
    if len(true) != len(predicted):
        raise ValueError(f"There are {len(true)} labels and {len(predicted)} predictions.")
    if task_name == "sts-b":
        return _correlations(true, predicted)
    metrics = require("sklearn.metrics", extra="sklearn")
    if task_name == "cola":
        return {"mcc": float(metrics.matthews_corrcoef(true, predicted))}
    accuracy = float(np.mean(true == predicted))
    if task_name in ACCURACY_TASKS:
        prefix = f"{task_name}_" if task_name.startswith("mnli") else ""
        return {f"{prefix}acc": accuracy}
    f1 = float(metrics.f1_score(true, predicted))
    return {"acc": accuracy, "f1": f1, "acc_and_f1": (accuracy + f1) / 2}


def _correlations(true: NDArray[Any], predicted: NDArray[Any]) -> dict[str, float]:
    stats = require("scipy.stats", extra="sklearn")
    pearson = float(stats.pearsonr(true, predicted)[0])
    spearman = float(stats.spearmanr(true, predicted)[0])
    return {"pearson": pearson, "spearmanr": spearman, "corr": (pearson + spearman) / 2}


class GLUEMetric(AbstractBaseMetric):
    """Is the dict of a task's metrics; see `glue_metrics`."""

    def __init__(self, y_true: Any, y_predicted: Any, task_name: str) -> None:
        self.task_name = task_name
        super().__init__(y_true, y_predicted, metric_name=f"GLUE_{task_name}")

    def calculate_metric(self) -> dict[str, float]:
        return glue_metrics(self.task_name, self.y_true, self.y_predicted)


class XNLIMetric(AbstractBaseMetric):
    """Is the accuracy of XNLI (Conneau et al. 2018), as a dict with `acc`."""

    def __init__(self, y_true: Any, y_predicted: Any) -> None:
        super().__init__(y_true, y_predicted, metric_name="xnli_accuracy")

    def calculate_metric(self) -> dict[str, float]:
        true, predicted = class_labels(self.y_true), class_labels(self.y_predicted)
        return {"acc": float(np.mean(true == predicted))}

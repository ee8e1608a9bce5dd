"""Result packages around metrics of torchmetrics and of Hugging Face's evaluate."""

from typing import Any

import torch

from loopwright.results.package import AbstractResultPackage


class TorchMetricsPackage(AbstractResultPackage):
    """Computes a metric of torchmetrics over the whole data set.

    Results are named after the metric's class, or after the entries of a collection, with the
    suffix `_PTLMetrics`.

    Args:
        torch_metrics: A `torchmetrics.Metric` or `MetricCollection`. It takes labels and
            predictions as they come, and keeps the state that `metric_compute` reads until
            `metric_reset`.
    """

    def __init__(self, torch_metrics: Any) -> None:
        super().__init__("Torch Metrics", np_array=False)
        self.metric = torch_metrics

    def prepare_results_dict(self) -> dict[str, Any]:
        result = self.metric(
            _on_device(self.y_predicted, self.metric), _on_device(self.y_true, self.metric)
        )
        if not isinstance(result, dict):
            result = {type(self.metric).__name__: result}
        return {f"{name}_PTLMetrics": value for name, value in result.items()}

    def metric_compute(self) -> Any:
        """Return the value over everything since the last reset."""
        return self.metric.compute()

    def metric_reset(self) -> None:
        """Forget what was seen."""
        self.metric.reset()


class HFEvaluateResultPackage(AbstractResultPackage):
    """Computes a metric of Hugging Face's evaluate; results get the suffix `_HFEvaluate`.

    Args:
        hf_evaluate_metric: An `evaluate.EvaluationModule`, or any object with its `compute`.
        use_models_additional_results: Whether the metadata that `get_predictions` returned is
            passed to `compute` too.
        **kwargs: `strict_content_check` and `np_array` of the package; all others are arguments of
            `compute`.
    """

    def __init__(
        self,
        hf_evaluate_metric: Any,
        use_models_additional_results: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__("HuggingFace Evaluate metrics", **kwargs)
        self.metric = hf_evaluate_metric
        self.use_models_additional_results = use_models_additional_results

    def prepare_results_dict(self) -> dict[str, Any]:
        arguments = dict(self.package_metadata)
        if self.use_models_additional_results:
            arguments |= (self.additional_results or {}).get("additional_results") or {}
        result = self.metric.compute(
            references=self.y_true, predictions=self.y_predicted, **arguments
        )
        if not isinstance(result, dict):
            result = {getattr(self.metric, "name", type(self.metric).__name__): result}
        return {f"{name}_HFEvaluate": value for name, value in result.items()}


def _on_device(values: Any, metric: Any) -> Any:
    """Return tensors where the metric keeps its state; arrays and lists become tensors."""
    if not isinstance(values, torch.Tensor):
        values = torch.as_tensor(values)
    device = getattr(metric, "device", None)
    return values if device is None else values.to(device)

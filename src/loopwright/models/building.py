"""Making a model by name, with the shapes of the data filled in."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from loopwright.arguments import accepts
from loopwright.datasets.base import Array
from loopwright.models.base import count_outputs, models
from loopwright.models.estimators import EstimatorModel, is_estimator


def build_model(
    name: str,
    arguments: Mapping[str, Any],
    *,
    features: Array,
    labels: Array,
    seed: int | None = None,
) -> nn.Module:
    """Make a model; what stands in `INFERRED` comes from the data unless it is given.

    For data without classes, `classes` is the number of values in a label.

    Args:
        name: a registered name, or a path; of scikit-learn's estimators too.
        arguments: of the model.
        features: what it gets.
        labels: what it should give.
        seed: of an estimator's own draws; a network is drawn from torch's global generator.

    Raises:
        ValueError: an argument is out of its range or does not fit the data.
    """
    factory = models.get(name)
    if is_estimator(factory):
        return EstimatorModel(factory(**arguments), labels, seed)
    if None in features.shape:
        raise ValueError(
            f"samples have the shape {features.shape}, where None differs from sample to sample: "
            "put a step into dataset.preprocessors that makes them alike, such as image_resize"
        )
    inferred: dict[str, Any] = {"input_shape": features.shape, "classes": count_outputs(labels)}
    if features.vocabulary_size is not None:
        inferred["vocabulary_size"] = features.vocabulary_size
    if any(features.categories):
        inferred["categories"] = [len(known) for known in features.categories]
    known = {name: value for name, value in inferred.items() if accepts(factory, name)}
    model = factory(**(known | dict(arguments)))
    return EstimatorModel(model, labels, seed) if is_estimator(model) else model

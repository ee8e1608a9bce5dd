"""Scikit-learn estimators in the place of a network."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.datasets.base import Array, ClassLabel
from loopwright.errors import ArtifactError
from loopwright.extras import require
from loopwright.models.base import models
from loopwright.models.estimator_checks import check_estimator

SHORT_FORMS: Mapping[str, str] = {
    "decision_tree_classifier": "sklearn.tree:DecisionTreeClassifier",
    "decision_tree_regressor": "sklearn.tree:DecisionTreeRegressor",
    "gradient_boosting_classifier": "sklearn.ensemble:HistGradientBoostingClassifier",
    "gradient_boosting_regressor": "sklearn.ensemble:HistGradientBoostingRegressor",
    "k_neighbors_classifier": "sklearn.neighbors:KNeighborsClassifier",
    "k_neighbors_regressor": "sklearn.neighbors:KNeighborsRegressor",
    "linear_regression": "sklearn.linear_model:LinearRegression",
    "linear_svc": "sklearn.svm:LinearSVC",
    "logistic_regression": "sklearn.linear_model:LogisticRegression",
    "random_forest_classifier": "sklearn.ensemble:RandomForestClassifier",
    "random_forest_regressor": "sklearn.ensemble:RandomForestRegressor",
    "ridge": "sklearn.linear_model:Ridge",
    "svc": "sklearn.svm:SVC",
}
"""What stands for an estimator's path."""

for _name, _path in SHORT_FORMS.items():
    models.add_path(_name, _path, extra="sklearn")

TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""Types inside of fitted estimators that are read, beside those that skops itself knows."""

_SCHEMA = "schema.json"
_ADDRESS = re.compile(r'("__id__": |"file": ")(\d+)')


def is_estimator(part: Any) -> bool:
    """Whether a class or object has the methods of scikit-learn's classifiers and regressors."""
    needed = ("fit", "predict", "get_params")
    return all(hasattr(part, name) for name in needed) and not isinstance(part, nn.Module)


class EstimatorModel(nn.Module):
    """Gives what an estimator predicts, as a network would.

    For classes those are logarithms of probabilities where it has them, else a one at the class
    that it predicts; for numbers the numbers. Samples are flattened to rows.

    Args:
        estimator: has `fit` and `predict`.
        labels: what it predicts.
        seed: of an estimator that takes a `random_state` and was given none.
    """

    def __init__(self, estimator: Any, labels: Array, seed: int | None = None) -> None:
        super().__init__()
        if estimator.get_params(deep=False).get("random_state", 0) is None and seed is not None:
            estimator.set_params(random_state=seed % 2**32)
        self.estimator = estimator
        self.labels = labels
        self.trusted: Collection[str] = ()
        """Further types that may be read, by their full names."""

    @property
    def name(self) -> str:
        """The name of the estimator's class."""
        return type(self.estimator).__name__

    @property
    def is_probabilistic(self) -> bool:
        """Whether it gives probabilities of classes."""
        return isinstance(self.labels, ClassLabel) and hasattr(self.estimator, "predict_proba")

    @property
    def learns_in_parts(self) -> bool:
        """Whether it can be fitted on one batch after the other."""
        return hasattr(self.estimator, "partial_fit")

    def learn(self, inputs: Tensor, targets: Tensor, *, in_parts: bool = False) -> None:
        """Fit the estimator.

        Args:
            inputs: [N, ...].
            targets: [N], indices of classes, or [N, classes] with a one each; or [N, ...], numbers.
            in_parts: whether what it learned before stays.
        """
        values = self._as_targets(targets)
        if not in_parts:
            self.estimator.fit(_as_rows(inputs), values)
        elif isinstance(self.labels, ClassLabel):
            classes = np.arange(self.labels.num_classes)
            self.estimator.partial_fit(_as_rows(inputs), values, classes=classes)
        else:
            self.estimator.partial_fit(_as_rows(inputs), values)

    def _as_targets(self, targets: Tensor) -> np.ndarray:
        if isinstance(self.labels, ClassLabel):
            targets = targets.argmax(dim=1) if targets.ndim == 2 else targets
        elif targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
        values: np.ndarray = targets.cpu().numpy()
        return values

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N, classes], or [N, *labels.shape]; float32."""
        rows = _as_rows(inputs)
        if isinstance(self.labels, ClassLabel):
            outputs = self._of_classes(rows, self.labels.num_classes)
        else:
            predicted = torch.from_numpy(np.asarray(self.estimator.predict(rows)))
            outputs = predicted.reshape(len(rows), *(size or 1 for size in self.labels.shape))
        return outputs.float().to(inputs.device)

    def _of_classes(self, rows: np.ndarray, num_classes: int) -> Tensor:
        if not self.is_probabilistic:
            predicted = torch.from_numpy(np.asarray(self.estimator.predict(rows)))
            return nn.functional.one_hot(predicted.long(), num_classes)
        probabilities = torch.zeros(len(rows), num_classes, dtype=torch.float64)
        known = torch.from_numpy(np.asarray(self.estimator.classes_))  # others were never seen
        found = np.asarray(self.estimator.predict_proba(rows), dtype=np.float64)
        probabilities[:, known.long()] = torch.from_numpy(found)
        return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()

    def get_extra_state(self) -> Tensor:
        """Return the fitted estimator as skops writes it, uint8; alike for estimators alike.

        Raises:
            ArtifactError: it could not be loaded, whatever types were trusted.
        """
        check_estimator(self.estimator, None)
        return torch.frombuffer(_dumped(self.estimator), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take a fitted estimator of the same class.

        Raises:
            ArtifactError: it holds types that are not trusted, is of another class, or could read
                past the ends of its arrays.
        """
        self.estimator = _loaded(state.numpy().tobytes(), type(self.estimator), self.trusted)


def _as_rows(inputs: Tensor) -> np.ndarray:
    rows: np.ndarray = inputs.reshape(len(inputs), -1).cpu().numpy()
    return rows


def _dumped(estimator: Any) -> bytearray:
    """Return an estimator as an archive of skops, without the times and addresses in it."""
    with zipfile.ZipFile(io.BytesIO(require("skops.io", "sklearn").dumps(estimator))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    numbers: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        return f"{found[1]}{numbers.setdefault(found[2], len(numbers))}"

    schema = _ADDRESS.sub(numbered, members.pop(_SCHEMA).decode())
    renamed = {f"{numbers[stem]}.{end}": members[f"{stem}.{end}"] for stem, end in _split(members)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, member in {_SCHEMA: schema.encode(), **renamed}.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    return bytearray(content.getbuffer())


def _split(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        stem, _, end = name.partition(".")
        yield stem, end


def _loaded(content: bytes, kind: type, trusted: Collection[str]) -> Any:
    skops = require("skops.io", "sklearn")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not stored or sum(member.file_size for member in members) > len(content):
                raise ArtifactError(
                    "A fitted estimator is compressed, or claims more than it holds."
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise ArtifactError(f"A fitted {kind.__name__} is damaged: {error}.") from None
    if damaged is not None:
        raise ArtifactError(f"A fitted {kind.__name__} is damaged: {damaged} has another checksum.")
    own = f"{kind.__module__}.{kind.__name__}"  # its code was imported and called to make one
    allowed = {*TRUSTED, *trusted, own}
    if unknown := sorted(set(skops.get_untrusted_types(data=content)) - allowed):
        raise ArtifactError(
            f"A fitted {kind.__name__} holds the types {', '.join(unknown)}, which are not known "
            f"to be harmless. If you trust them, say so: load(path, trusted={unknown})."
        )
    estimator = skops.loads(content, trusted=sorted(allowed))
    if type(estimator) is not kind:
        raise ArtifactError(f"Expected a {kind.__name__}, found a {type(estimator).__name__}.")
    check_estimator(estimator, trusted)
    return estimator

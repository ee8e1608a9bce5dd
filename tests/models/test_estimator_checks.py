"""Crafted files of estimators: none makes the C code of scikit-learn read past an array's end."""

import io
import re
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
pytest.importorskip("skops.io")

from sklearn.base import is_regressor  # noqa: E402
from sklearn.cluster import KMeans  # noqa: E402
from sklearn.decomposition import NMF  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.kernel_approximation import Nystroem  # noqa: E402
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, KNeighborsRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder  # noqa: E402
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

from loopwright.artifact import read_artifact  # noqa: E402
from loopwright.datasets.base import Array, classes  # noqa: E402
from loopwright.errors import ArtifactError  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402
from loopwright.models.estimators import EstimatorModel, _dumped  # noqa: E402

DRAW = np.random.default_rng(0)
INPUTS = torch.from_numpy(DRAW.normal(size=(60, 4)))
INPUTS[:, 0] = torch.from_numpy(DRAW.integers(0, 5, 60))
TARGETS = torch.from_numpy(DRAW.integers(0, 3, 60))
FAR = 2**30

Spoil = Callable[[Any], None]


def fitted(estimator: Any) -> EstimatorModel:
    numeric = is_regressor(estimator)
    labels = Array((), torch.float32) if numeric else classes(("a", "b", "c"))
    model = EstimatorModel(estimator, labels, seed=0)
    model.learn(INPUTS, TARGETS.double() if numeric else TARGETS)
    return model


def loaded(model: EstimatorModel, *trusted: str) -> EstimatorModel:
    """Return the model of a file that was not checked when it was written."""
    other = EstimatorModel(type(model.estimator)(), model.labels)
    other.trusted = ["functools.partial", "sklearn.utils.validation.check_array", *trusted]
    other.load_state_dict({"_extra_state": crafted_state(model)})
    return other


def crafted_state(model: EstimatorModel) -> torch.Tensor:
    return torch.frombuffer(_dumped(model.estimator), dtype=torch.uint8)


def tree_with(field: str, value: int) -> Spoil:
    """Return what changes a field of the first node of a decision tree."""

    def spoil(owner: Any) -> None:
        state = owner.tree_.__getstate__()
        state["nodes"] = state["nodes"].copy()
        state["nodes"][field][0] = value
        owner.tree_.__setstate__(state)

    return spoil


def of_first(spoil: Spoil) -> Spoil:
    """Return what does that to the first tree of several."""
    return lambda ensemble: spoil(np.ravel(ensemble.estimators_)[0])


def nodes_with(name: str, value: Any) -> Spoil:
    def spoil(boosting: Any) -> None:
        boosting._predictors[0][0].nodes[name][0] = value

    return spoil


def with_values(**values: Any) -> Spoil:
    return lambda estimator: estimator.__dict__.update(values)


def more_trees(boosting: Any) -> None:
    boosting.estimators_ = np.concatenate([boosting.estimators_] * 3, axis=1)


def wider_tree(boosting: Any) -> None:
    boosting.estimators_[0, 1] = DecisionTreeClassifier().fit(np.ones((2, 9)), [0, 1])


def nested(estimator: Any) -> Spoil:
    def spoil(bagging: Any) -> None:
        bagging.estimators_[0] = estimator.fit(INPUTS.numpy(), TARGETS.numpy())

    return spoil


TREE = DecisionTreeClassifier
FOREST = {"n_estimators": 2}
CATEGORIES = {"max_iter": 2, "categorical_features": [0], "min_samples_leaf": 3}
SPOILT: dict[str, tuple[Any, Spoil, str]] = {
    "child": (TREE(), tree_with("left_child", FAR), "children that do not follow"),
    "child before": (TREE(), tree_with("right_child", -5), "children that do not follow"),
    "circle": (TREE(), tree_with("left_child", 0), "children that do not follow"),
    "feature": (TREE(), tree_with("feature", FAR), "4 features looks at others"),
    "width": (TREE(), with_values(n_features_in_=2), "does not say that a tree has 4 features"),
    "forest": (
        RandomForestClassifier(**FOREST), of_first(tree_with("feature", -1)), "looks at others",
    ),
    "regressors": (
        ExtraTreesRegressor(**FOREST), of_first(tree_with("left_child", FAR)), "do not follow",
    ),
    "forest's width": (
        RandomForestClassifier(**FOREST), of_first(with_values(n_features_in_=9)), "has 4 features",
    ),
    "boosting": (
        GradientBoostingClassifier(**FOREST), of_first(tree_with("feature", FAR)), "looks at",
    ),
    "outputs": (GradientBoostingClassifier(**FOREST), more_trees, "9 trees .* for 3 outputs"),
    "wider": (GradientBoostingClassifier(**FOREST), wider_tree, "several numbers of features"),
    **{
        f"histogram {name}": (
            HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=3),
            nodes_with(name, value),
            message,
        )
        for name, value, message in (
            ("left", FAR, "do not follow"),
            ("right", 0, "do not follow"),
            ("feature_idx", FAR, "looks at others"),
            ("is_categorical", 1, "looks at others"),
        )
    },
    "categories": (
        HistGradientBoostingClassifier(**CATEGORIES),
        lambda boosting: [
            nodes_with(name, value)(boosting)
            for name, value in (("feature_idx", 0), ("is_categorical", 1), ("bitset_idx", FAR))
        ],
        "fewer sets of categories",
    ),
    "labels": (KNeighborsClassifier(), lambda k: k._y.fill(FAR), "out of bounds"),
    "neighbors of no samples": (KNeighborsClassifier(), lambda k: delattr(k, "_fit_X"), "_fit_X"),
    "method": (KNeighborsClassifier(), with_values(fit=1), "overrides 'fit' of its class"),
    "limits": (
        KNeighborsClassifier(), with_values(_parameter_constraints={}, n_neighbors=0), "overrides",
    ),
    "counts": (SVC(), lambda svc: svc._n_support.fill(FAR), "support vectors and counts"),
    "negative": (
        NuSVC(nu=0.1), lambda svc: svc._n_support.__setitem__(slice(2), [-9, 99]), "counts",
    ),
    "coefficients": (
        SVC(), lambda svc: setattr(svc, "_dual_coef_", svc._dual_coef_[:1]), "do not fit together",
    ),
    "intercepts": (SVC(), with_values(_intercept_=np.zeros(1)), "do not fit together"),
    "indices": (SVR(), with_values(support_=np.zeros(1, np.int32)), "do not fit together"),
    "vectors' width": (SVR(), with_values(n_features_in_=9), "do not fit together"),
    "kernel": (SVC(), with_values(kernel="precomputed"), "kernel is 'precomputed'"),
    "cluster": (BaggingClassifier(**FOREST), nested(KMeans(2)), "sklearn.cluster._kmeans.KMeans"),
    "density": (BaggingClassifier(**FOREST), nested(KernelDensity()), "KernelDensity|KDTree"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_indices_past_an_end_are_refused(name: str) -> None:
    estimator, spoil, message = SPOILT[name]
    model = fitted(estimator)
    loaded(model)
    spoil(model.estimator)
    with pytest.raises(ArtifactError, match=f"{type(estimator).__name__} is refused: .*{message}"):
        loaded(model)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_nodes_that_are_not_there_is_refused(count: int) -> None:
    """It is changed in the bytes: reading such a tree to write it would fail."""
    model = fitted(TREE())
    content = model.get_extra_state().numpy().tobytes()
    crafted = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(crafted, "w") as new:
        for name in old.namelist():
            told = rb'("node_count": {[^}]*"content": ")\d+'
            new.writestr(name, re.sub(told, rb"\g<1>%d" % count, old.read(name)))
    state = torch.frombuffer(bytearray(crafted.getvalue()), dtype=torch.uint8)
    with pytest.raises(ArtifactError, match=f"nodes and claims {count}"):
        EstimatorModel(TREE(), model.labels).load_state_dict({"_extra_state": state})


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
@pytest.mark.parametrize("kind", [KNeighborsClassifier, KNeighborsRegressor])
def test_a_tree_of_neighbors_is_built_anew(kind: Any, algorithm: str) -> None:
    """What a file says of its nodes and rows is not used."""
    model = fitted(kind(algorithm=algorithm, leaf_size=5, p=3))
    expected = model(INPUTS)
    state = list(model.estimator._tree.__getstate__())
    state[1] = np.full_like(state[1], FAR)
    state[2] = np.array(state[2])
    state[2]["idx_end"] = FAR
    state[6] = FAR
    model.estimator._tree.__setstate__(tuple(state))
    assert torch.equal(loaded(model)(INPUTS), expected)


@pytest.mark.parametrize(
    "estimator",
    [
        SVC(kernel="linear"),
        SVR(epsilon=100.0),
        GradientBoostingClassifier(**FOREST, init="zero"),
        HistGradientBoostingClassifier(**CATEGORIES),
        BaggingClassifier(DecisionTreeClassifier(), **FOREST, max_features=2),
        BaggingClassifier(KNeighborsClassifier(), **FOREST),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_what_was_fitted_is_taken(estimator: Any) -> None:
    model = fitted(estimator)
    assert torch.equal(loaded(model)(INPUTS), model(INPUTS))


def test_a_type_that_is_not_known_can_be_trusted() -> None:
    model = fitted(BaggingClassifier(**FOREST))
    nested(KMeans(2))(model.estimator)
    other = EstimatorModel(BaggingClassifier(), model.labels)
    other.trusted = ["sklearn.cluster._kmeans.KMeans"]
    other.load_state_dict(model.state_dict())
    assert isinstance(other.estimator.estimators_[0], KMeans)


def test_a_type_that_is_trusted_is_checked_all_the_same() -> None:
    model = fitted(SVC())
    model.estimator._n_support.fill(FAR)
    with pytest.raises(ArtifactError, match="support vectors and counts"):
        loaded(model, "sklearn.svm._classes.SVC")


def test_what_could_never_be_loaded_is_refused_when_it_is_saved() -> None:
    for estimator in (SVC(kernel="precomputed"), SVR(kernel=np.inner)):
        model = EstimatorModel(estimator, classes(("a", "b", "c")))
        model.learn(INPUTS @ INPUTS.T, TARGETS)
        with pytest.raises(ArtifactError, match="its kernel is .*LinearSVC or LinearSVR"):
            model.state_dict()


def test_saving_leaves_a_search_for_neighbors_as_it_is() -> None:
    model = fitted(KNeighborsClassifier(algorithm="kd_tree"))
    tree = model.estimator._tree
    model.state_dict()
    assert model.estimator._tree is tree


def test_another_kernel_can_be_approximated() -> None:
    model = fitted(make_pipeline(Nystroem("laplacian", n_components=20), LinearSVC()))
    other = EstimatorModel(make_pipeline(Nystroem(), LinearSVC()), model.labels)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(INPUTS), model(INPUTS))


@pytest.mark.parametrize("part", [OneHotEncoder(handle_unknown="ignore"), KMeans(2), NMF(2)])
def test_the_types_of_the_documentation_have_to_be_named(part: Any) -> None:
    model = EstimatorModel(make_pipeline(part, LinearSVC()), classes(("a", "b", "c")), seed=0)
    model.learn(INPUTS.abs().round(), TARGETS)
    other = EstimatorModel(make_pipeline(part, LinearSVC()), model.labels)
    name = f"{type(part).__module__}.{type(part).__name__}"
    with pytest.raises(ArtifactError, match=rf"load\(path, trusted=\['{name}'\]\)"):
        other.load_state_dict(model.state_dict())
    other.trusted = [name]
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(INPUTS.abs()), model(INPUTS.abs()))


def test_a_crafted_artifact_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the checksums of what was put into it."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(
        dataset={"dataset": "iris"}, model={"model": "decision_tree_classifier"}
    )
    experiment.train()

    def crafted(model: EstimatorModel) -> torch.Tensor:
        other = deepcopy(model)
        tree_with("feature", FAR)(other.estimator)
        return crafted_state(other)

    with monkeypatch.context() as patch:
        patch.setattr(EstimatorModel, "get_extra_state", crafted)
        experiment.save("model.zip")
    with pytest.raises(ArtifactError, match="DecisionTreeClassifier is refused: .*4 features"):
        read_artifact("model.zip")

"""Refusing fitted estimators whose arrays the C code of scikit-learn would read past their ends.

That code trusts what `fit` made: the numbers of children in trees, counts of support vectors. A
file can hold any, and skops looks at types alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from loopwright.errors import ArtifactError

# Modules whose estimators predict in Python and numpy alone, or are checked here.
_KNOWN = re.compile(
    r"sklearn\.(_loss|base|calibration|compose|covariance|cross_decomposition"
    r"|decomposition\._(pca|truncated_svd)|discriminant_analysis|dummy|ensemble|feature_selection"
    r"|gaussian_process|impute|isotonic|kernel_approximation|kernel_ridge|linear_model"
    r"|metrics\._(dist_metrics|scorer)|model_selection|multiclass|multioutput|naive_bayes"
    r"|neighbors\._(classification|nearest_centroid|regression|unsupervised)|neural_network"
    r"|pipeline|preprocessing\._(data|encoders\.OrdinalEncoder|function_transformer|label"
    r"|polynomial)|semi_supervised|svm|tree|utils)\b"
)
_KERNELS = ("linear", "poly", "rbf", "sigmoid")


def check_estimator(estimator: Any, trusted: Collection[str] | None) -> None:
    """Refuse an estimator that could read past the ends of its arrays when it predicts.

    Searches for neighbors are built anew from their samples when it was loaded.

    Args:
        estimator: as it was loaded, or will be saved.
        trusted: full names of further types that may be in it, whose arrays are checked all the
            same where they can be; None for any, before it is saved: what is refused then could
            never be loaded.

    Raises:
        ArtifactError: it could, or a part of it is of a type that is not known not to.
    """
    try:
        for part in _parts_of(estimator, set()):
            _check(part, trusted)
    except ArtifactError as error:
        raise ArtifactError(f"A fitted {type(estimator).__name__} is refused: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise ArtifactError(
            f"A fitted {type(estimator).__name__} is refused: its parts do not fit together "
            f"({type(error).__name__}: {error!s:.200})."
        ) from None


def _parts_of(part: Any, seen: set[int]) -> Iterator[Any]:
    """Give all that an object consists of, and it itself after that."""
    if isinstance(part, str | bytes | int | float | complex | type | None) or id(part) in seen:
        return
    seen.add(id(part))
    # The tree of a search for neighbors is not looked at, but built anew.
    own = getattr(part, "__dict__", {}).items()
    inside = [value for name, value in own if name != "_tree"]
    if isinstance(part, Mapping):
        inside += [*part.keys(), *part.values()]
    elif isinstance(part, list | tuple | set | frozenset):
        inside += part
    elif isinstance(part, np.ndarray) and part.dtype.hasobject:
        inside += part.ravel().tolist()
    for each in inside:
        yield from _parts_of(each, seen)
    yield part


def _check(part: Any, trusted: Collection[str] | None) -> None:
    kind = type(part)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name.startswith("sklearn."):
        if not (trusted is None or _KNOWN.match(name) or name in trusted):
            raise ArtifactError(
                f"it holds a {name}, which is not known to keep within its arrays. If you trust "
                f"the file, say so: load(path, trusted=[{name!r}])."
            )
        for attribute in getattr(part, "__dict__", {}):
            _require(
                isinstance(getattr(kind, attribute, False), bool),
                f"a {name} overrides {attribute!r:.40} of its class",
            )
    for base in kind.__mro__:
        made_by_fit, check = _CHECKS.get(f"{base.__module__}.{base.__qualname__}", ("", None))
        if check is None or not hasattr(part, made_by_fit):
            continue
        if check is not _build_anew or trusted is not None:
            check(part)


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise ArtifactError(f"{what}.")


def _check_tree(tree: Any) -> None:
    count = tree.node_count
    _require(1 <= count <= tree.capacity, f"a tree has {tree.capacity} nodes and claims {count}")
    inner = np.flatnonzero(tree.children_left != -1)
    for children in (tree.children_left[inner], tree.children_right[inner]):
        _check_children(inner, children, count)
    features = tree.feature[inner]
    _require(
        ((features >= 0) & (features < tree.n_features)).all(),
        f"a tree of {tree.n_features} features looks at others",
    )


def _check_children(nodes: Any, children: Any, count: int) -> None:
    """Require that children follow their nodes, so that every way down ends."""
    _require(
        ((children > nodes) & (children < count)).all(),
        f"a tree of {count} nodes has children that do not follow their node",
    )


def _check_owner_of_tree(owner: Any) -> None:
    expected = owner.tree_.n_features
    _require(
        owner.__dict__.get("n_features_in_") == expected,
        f"it does not say that a tree has {expected} features",
    )


def _check_boosting(boosting: Any) -> None:
    """Require trees of the same features, and as many in a stage as there are outputs."""
    trees = boosting.estimators_
    widths = {each.tree_.n_features for each in trees.ravel()}
    _require(trees.ndim == 2 and len(widths) == 1, "its trees have several numbers of features")
    outputs = boosting._raw_predict_init(np.zeros((1, *widths), np.float32))
    _require(
        trees.shape[1] == outputs.shape[1],
        f"it has {trees.shape[1]} trees in a stage for {outputs.shape[1]} outputs",
    )


def _check_hist_boosting(boosting: Any) -> None:
    is_categorical = boosting._bin_mapper.is_categorical_ != 0
    width = boosting.__dict__["n_features_in_"]
    if boosting._preprocessor is not None:
        width = boosting._preprocess_X(np.zeros((1, width)), reset=False).shape[1]
    _require(
        is_categorical.shape == (width,),
        f"it does not say which of its {width} features are categorical",
    )
    _require(not getattr(boosting, "_in_fit", False), "it says that it is being fitted")
    for predictor in (each for stage in boosting._predictors for each in stage):
        _check_predictor(predictor, is_categorical)


def _check_predictor(predictor: Any, is_categorical: Any) -> None:
    nodes = predictor.nodes
    _require(nodes.ndim == 1 and len(nodes), "a tree has no nodes")
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    for side in ("left", "right"):
        _check_children(inner, nodes[side][inner], len(nodes))
    features, splits_categories = nodes["feature_idx"][inner], nodes["is_categorical"][inner] != 0
    _require(
        ((features >= 0) & (features < len(is_categorical))).all()
        and is_categorical[features[splits_categories]].all(),
        f"a tree of {len(is_categorical)} features looks at others",
    )
    sets = nodes["bitset_idx"][inner][splits_categories]
    for bits in (predictor.raw_left_cat_bitsets, predictor.binned_left_cat_bitsets):
        fits = bits.ndim == 2 and bits.shape[1] == 8 and (sets < len(bits)).all()
        _require(fits or not len(sets), "a tree has fewer sets of categories than it looks at")


def _build_anew(neighbors: Any) -> None:
    """Fit a search for neighbors on the samples that it holds."""
    targets: Any = getattr(neighbors, "_y", None)
    classes = neighbors.__dict__.get("classes_")
    if isinstance(classes, list):  # one array for each output
        columns = zip(classes, targets.T, strict=True)
        targets = np.stack([names[column] for names, column in columns], axis=1)
    elif classes is not None:
        targets = classes[targets]
    neighbors.fit(neighbors._fit_X, targets)


def _check_support_vectors(machine: Any) -> None:
    vectors, counts = machine.support_vectors_, machine._n_support
    num_classes, num_pairs = len(counts), len(counts) * (len(counts) - 1) // 2
    num_vectors = len(machine.support_)
    _require(
        machine.kernel in _KERNELS and not machine._sparse,
        f"its kernel is {machine.kernel!r:.40}; expected one of {', '.join(_KERNELS)}, fitted on "
        "dense samples. For other kernels put sklearn.kernel_approximation.Nystroem before a "
        "LinearSVC or LinearSVR",
    )
    width = machine.__dict__["n_features_in_"]
    _require(
        len(vectors) == num_vectors
        and (not num_vectors or vectors.shape[1:] == (width,))
        and machine._dual_coef_.shape == (num_classes - 1, num_vectors)
        and machine._intercept_.shape == (num_pairs,)
        and all(len(each) in (0, num_pairs) for each in (machine._probA, machine._probB))
        and len(machine._probA) == len(machine._probB),
        f"the arrays of its {num_vectors} support vectors do not fit together",
    )
    has_classes = machine._impl in ("c_svc", "nu_svc")
    _require(
        num_classes >= 2
        and (counts >= 0).all()
        and (not has_classes or counts.sum() == num_vectors),
        f"it has {num_vectors} support vectors and counts {counts.tolist()!s:.80}",
    )


_CHECKS: Mapping[str, tuple[str, Callable[[Any], None]]] = {
    "sklearn.ensemble._gb.BaseGradientBoosting": ("estimators_", _check_boosting),
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.BaseHistGradientBoosting": (
        "_predictors",
        _check_hist_boosting,
    ),
    "sklearn.neighbors._base.NeighborsBase": ("_fit_method", _build_anew),
    "sklearn.svm._base.BaseLibSVM": ("support_", _check_support_vectors),
    "sklearn.tree._classes.BaseDecisionTree": ("tree_", _check_owner_of_tree),
    "sklearn.tree._tree.Tree": ("node_count", _check_tree),
}
"""By classes, whose children are checked too: what `fit` makes, and what is checked then."""

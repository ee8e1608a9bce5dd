"""The file of a trained experiment: one zip of JSON and safetensors, read without executing any.

The members are those of a state folder (`loopwright.checkpoint`), stored uncompressed, and a model
card. Reading bounds every size by that of the file and compares checksums first.
"""

from __future__ import annotations

import datetime
import os
import re
import stat
import struct
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from loopwright.checkpoint import read_manifest, read_state, write_aside, write_state
from loopwright.datasets import Array, ClassLabel, Samples
from loopwright.environment import describe_environment
from loopwright.errors import ArtifactError, CheckpointError
from loopwright.fitted import Fitted
from loopwright.models import build_model, models
from loopwright.models.estimators import EstimatorModel, is_estimator
from loopwright.preprocessors import preprocessors
from loopwright.preprocessors.pipeline import Pipeline
from loopwright.states import check_fits

__all__ = ["Artifact", "read_artifact", "write_artifact"]

FORMAT = 1
_CARD = "README.md"
_MOST_MEMBERS = 100
_MEMBER = re.compile(r"[a-z][a-z_]*\.(?:json|safetensors)")
# Modules of scikit-learn that hold estimators; no other is imported because a file names it.
_SKLEARN = re.compile(
    r"sklearn\.(calibration|compose|cross_decomposition|discriminant_analysis|dummy|ensemble"
    r"|gaussian_process|isotonic|kernel_ridge|linear_model|model_selection|multiclass|multioutput"
    r"|naive_bayes|neighbors|neural_network|semi_supervised|svm|tree):[A-Z]\w*"
)
_SAMPLE_ROWS = 4


@dataclass(frozen=True)
class Artifact:
    """Is what a file of a trained experiment holds."""

    fitted: Fitted
    spec: dict[str, Any]
    """The values that declared the experiment."""
    about: dict[str, Any]
    """Format, time, versions, licence."""
    sample: Samples
    """Raw samples, for which it was seen to predict what it did when it was saved."""


def write_artifact(
    path: str | os.PathLike[str],
    fitted: Fitted,
    spec: Mapping[str, Any],
    sample: Samples,
    *,
    licence: str | None = None,
) -> None:
    """Write a file that `read_artifact` takes; it appears whole or not at all.

    Args:
        path: the file.
        fitted: what predicts.
        spec: the values that declared the experiment.
        sample: raw samples, of which the first few are kept with what the model gives for them.
        licence: of the weights, for the model card.

    Raises:
        ArtifactError: something cannot be kept without code, such as a preprocessor's own class.
    """
    environment = describe_environment()
    sample = sample[:_SAMPLE_ROWS]
    inputs = fitted.transform(sample)
    state = {
        "about": {
            "format": FORMAT,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": environment["versions"],
            "python": environment["python"],
            "licence": licence,
        },
        "spec": dict(spec),
        "features": _describe(fitted.features),
        "inputs": _describe(Pipeline(fitted.preprocessors).described_as(fitted.features, inputs)),
        "labels": _describe(fitted.labels),
        "loss": fitted.loss,
        "objective": fitted.objective,
        "batch_size": fitted.batch_size,
        "metrics": dict(fitted.metrics),
        "weights": dict(fitted.model.state_dict()),
        "preprocessors": [step.state() for step in fitted.preprocessors],
        "sample": {"inputs": sample, "outputs": fitted.evidence(sample)},
    }
    card = _card(state, fitted)
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_state(Path(folder, "state"), state)
        except CheckpointError as error:
            raise ArtifactError(f"The experiment cannot be saved: {error}") from None
        members = sorted(Path(folder, "state").iterdir())
        write_aside(Path(path), lambda aside: _zip(aside, members, card))


def _zip(path: Path, members: list[Path], card: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_CARD, card)
        for member in members:
            archive.write(member, member.name)


def read_artifact(path: str | os.PathLike[str], *, trusted: Collection[str] = ()) -> Artifact:
    """Read a file of `write_artifact`, and see that it predicts as it did.

    Args:
        path: the file.
        trusted: paths such as "package.module:Name" of parts that the experiment was declared with
            and whose code may be imported, each written exactly as there.

    Raises:
        ArtifactError: the file is damaged, is no such file, names code that is not trusted, or
            does not predict for its sample what it did when it was saved.
    """
    path = Path(path)
    with _unpacked(path) as folder:
        try:
            state = read_state(folder)
        except CheckpointError as error:
            text = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), "The archive")
            raise ArtifactError(f"{path} is refused: {text}") from None
    try:
        about = dict(state["about"])
        if about["format"] != FORMAT:
            raise ArtifactError(
                f"{path} has format {about['format']!r:.20}; this version reads {FORMAT}."
            )
        _refuse_code(path, state["spec"], trusted)
        fitted = _rebuild(state, path, trusted)
        expected = state["sample"]["outputs"]
        found = fitted.evidence(state["sample"]["inputs"])
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else ""
        raise ArtifactError(
            f"{path} is refused: what it declares does not fit together "
            f"({type(error).__name__}: {first:.200})."
        ) from None
    if found.shape != expected.shape or not torch.allclose(
        found, expected, rtol=1e-4, atol=1e-5, equal_nan=True
    ):
        raise ArtifactError(
            f"{path} is refused: its model does not give for its sample what it gave when it was "
            f"saved, with {about.get('versions')}."
        )
    return Artifact(fitted, dict(state["spec"]), about, state["sample"]["inputs"])


def _rebuild(state: Mapping[str, Any], path: Path, trusted: Collection[str]) -> Fitted:
    spec = state["spec"]
    features, labels, inputs = (_array(state[key]) for key in ("features", "labels", "inputs"))
    steps = []
    declared = spec["dataset"].get("preprocessors", [])
    for component, learned in zip(declared, state["preprocessors"], strict=True):
        arguments = {key: value for key, value in component.items() if key != "type"}
        step = preprocessors.get(component["type"])(**arguments)
        step.restore(learned)
        steps.append(step)
    component = spec["model"]["model"]
    arguments = {key: value for key, value in component.items() if key != "type"}
    weights = state["weights"]
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):  # allocates nothing, whatever sizes are declared
            outline = build_model(component["type"], arguments, features=inputs, labels=labels)
        try:
            check_fits(outline, weights, f"weights of {path}")
        except CheckpointError as error:
            raise ArtifactError(f"{path} is refused: {error}") from None
        model = build_model(component["type"], arguments, features=inputs, labels=labels)
    if isinstance(model, EstimatorModel):
        model.trusted = trusted
    model.load_state_dict(weights)
    model.eval()
    return Fitted(
        model,
        features,
        labels,
        steps,
        loss=str(state["loss"]),
        objective=str(state["objective"]),
        batch_size=int(state["batch_size"]),
        metrics=dict(state["metrics"]),
    )


def _refuse_code(path: Path, spec: Any, trusted: Collection[str]) -> None:
    """Refuse parts that are named by an import path, unless each is trusted by that very name."""
    named = {name for name in _types(spec) if ":" in name and not _is_sklearn(name)}
    if unknown := sorted(named - set(trusted)):
        listed = ", ".join(map(repr, unknown))
        raise ArtifactError(
            f"{path} was made with code of its own: {listed}. Loading it would import that code. "
            f"If you trust it, say so: load(path, trusted=[{listed}])."
        )


def _is_sklearn(name: str) -> bool:
    """Whether a path leads to an estimator in a module of scikit-learn that holds some."""
    return bool(_SKLEARN.fullmatch(name)) and is_estimator(models.get(name))


def _types(value: Any) -> Iterator[str]:
    """Give every `type` in a tree of plain values."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "type" and isinstance(item, str):
                yield item
            yield from _types(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _types(item)


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Give a private folder with the members of an archive, each checked before it is read."""
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            members = archive.infolist()
            _check_members(path, members, size)
            for member in members:
                if member.filename != _CARD:
                    Path(folder, member.filename).write_bytes(archive.read(member))
            listed = {*read_manifest(folder)["files"], "manifest.json", _CARD}
            if extra := {member.filename for member in members} - listed:
                raise ArtifactError(f"{path} is refused: it holds {sorted(extra)} beside its own.")
            yield Path(folder)
    except FileNotFoundError:
        raise ArtifactError(f"There is no file {path}. Check the path.") from None
    except ArtifactError:
        raise
    except (
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,  # names that are no text, and what is wrong with the manifest
    ) as error:
        raise ArtifactError(f"{path} is no saved experiment, or is damaged: {error}.") from None


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    if len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
        raise ArtifactError(f"{path} is refused: it holds {len(names)} files, some twice or odd.")
    for member in members:
        name = member.filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not (name == _CARD or _MEMBER.fullmatch(name)) or kind not in (0, stat.S_IFREG):
            raise ArtifactError(
                f"{path} is refused: it holds {name!r:.99}, and a saved experiment holds JSON and "
                "safetensors alone, in no folder."
            )
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ArtifactError(f"{path} is refused: {name} is compressed or encrypted.")
    if sum(member.file_size for member in members) > size:
        raise ArtifactError(f"{path} is refused: its files claim more than its {size} bytes.")


def _describe(info: Array) -> dict[str, Any]:
    described = {each.name: getattr(info, each.name) for each in fields(info)}
    is_text = info.dtype is str
    described["dtype"] = "text" if is_text else str(info.dtype).removeprefix("torch.")
    return {"kind": type(info).__name__, **described}


def _array(described: Mapping[str, Any]) -> Array:
    kinds = {kind.__name__: kind for kind in (Array, ClassLabel)}
    values = {key: value for key, value in described.items() if key != "kind"}
    values = {key: _as_tuples(value) for key, value in values.items()}
    dtype = str if values["dtype"] == "text" else getattr(torch, values["dtype"])
    if dtype is not str and not isinstance(dtype, torch.dtype):
        raise ValueError(f"{values['dtype']!r} is no type of numbers")
    values["dtype"] = dtype
    return kinds[described["kind"]](**values)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _card(state: Mapping[str, Any], fitted: Fitted) -> str:
    """Return a model card: what it is, what it reached, and how to use it."""
    spec, about = state["spec"], state["about"]
    data, model = spec["dataset"]["dataset"]["type"], spec["model"]["model"]["type"]
    metrics = [f"| {name} | {value:.6g} |" for name, value in sorted(state["metrics"].items())]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    features = state["features"]
    weights = {k: v for k, v in state["weights"].items() if not k.endswith("_extra_state")}
    lines = [
        f"# {model} on {data}",
        "",
        f"Saved {about['created']} with {versions}.",
        f"Licence: {about['licence'] or 'not stated'}.",
        "",
        f"- Input: {features['dtype']}, a sample of shape {tuple(features['shape'])}",
        f"- Output: {_output_of(fitted)}",
        f"- Parameters: {sum(tensor.numel() for tensor in weights.values()):,}",
        "",
        "| metric | value |",
        "|---|--:|",
        *metrics,
        "",
        "`loopwright predict FILE` and `loopwright serve FILE` use it; loading executes no code.",
    ]
    return "\n".join(lines) + "\n"


def _output_of(fitted: Fitted) -> str:
    if inference := fitted.inference:
        return inference.description
    if names := fitted.class_names:
        return f"one of {len(names)} classes: {', '.join(names)}"
    return f"numbers of shape {tuple(fitted.labels.shape)}"

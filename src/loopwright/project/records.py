"""What a project writes into the folder of a run: its models, and its data with their hashes."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopwright.checkpoint import write_aside, write_text_aside
from loopwright.errors import ConfigurationError
from loopwright.plain_values import mask_secrets, to_plain
from loopwright.project.preparation import PARTS
from loopwright.project.training import path_below

RECORD = "project.json"
"""The file in a run's folder that names its models and its data."""


def write_record(
    run: Path,
    models: Mapping[str, str],
    config: Mapping[str, Any],
    data: Mapping[str, str | Path | None],
    *,
    keeps_data: bool,
) -> None:
    """Note which models a run left and which data it had.

    Args:
        run: its folder.
        models: their files in it.
        config: of the project.
        data: the files of training, validation and test, in this order; None where there is none.
        keeps_data: whether a copy of them is kept in `dataset.zip`.
    """
    if keeps_data:
        parts = dict(zip(PARTS.values(), data.values(), strict=True))
        write_aside(run / "dataset.zip", lambda aside: _zip(aside, parts))
    files = {name: Path(file).resolve() for name, file in data.items() if file is not None}
    seen = {name: path_below(file, run.parent) for name, file in files.items()}
    record = {
        "models": models,
        "config": mask_secrets(to_plain(config)),
        "test": seen.pop("test", None),
        "trained_on": seen,
        "sha256": {name: hash_file(file) for name, file in files.items()},
    }
    write_text_aside(run / RECORD, json.dumps(record, indent=2) + "\n")


def read_record(run: Path) -> dict[str, Any]:
    """Return what was written about a run, and nothing where that is no run of a project."""
    path = run / RECORD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def find_data(run: Path, name: str, divided_in: Path) -> Path:
    """Return a file of a run's data; where the run was copied away from it, its equal.

    Args:
        run: its folder.
        name: training, validation or test.
        divided_in: the folder that the project divides data in today.

    Raises:
        ConfigurationError: there is none.
    """
    record = read_record(run)
    recorded = Path({**record["trained_on"], "test": record["test"]}[name])
    if (run.parent / recorded).is_file():
        return run.parent / recorded
    divided = divided_in.joinpath(*recorded.parts[-2:])
    for path in (divided, *run.rglob(f"*{recorded.suffix}")):
        if path.is_file() and hash_file(path) == record["sha256"].get(name):
            return path
    raise ConfigurationError(
        f"{run} was made with {recorded}, which is neither in {run.parent}, nor in {run}, nor what "
        f"{divided_in} holds under this name. Copy its folder to {run.parent}, with the seal in "
        "it; or unpack dataset.zip in the folder of the run; or, where nothing is sealed, give "
        "test_dataset_path."
    )


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _zip(path: Path, parts: Mapping[str, str | Path | None]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for part, file in parts.items():
            if file is not None:
                archive.write(file, f"{part}_dataset{Path(file).suffix}")

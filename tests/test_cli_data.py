"""Tests of list and preview on the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from loopwright.cli import make_app
from loopwright.cli_data import KINDS, _registries, describe_parts
from loopwright.experiment import Experiment

testing = pytest.importorskip("typer.testing")
pytest.importorskip("sklearn")


def run(*words: str) -> Any:
    return testing.CliRunner().invoke(make_app(), list(words))


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_listed_with_arguments_and_extra(kind: str) -> None:
    result = run("list", kind, "--json")
    assert result.exit_code == 0
    parts = {part["name"]: part for part in map(json.loads, result.stdout.splitlines())}
    assert set(parts) == set(_registries()[kind][0])
    assert all(part["summary"].endswith((".", ":")) for part in parts.values())
    text = run("list", kind).stdout
    assert all(f"{name}: {part['summary']}" in text for name, part in parts.items())


def test_a_broken_part_of_another_package_does_not_end_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[loopwright.models]\nbroken = nowhere:Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    lines = run("list", "models").stdout
    assert "broken: Cannot be loaded: No module named 'nowhere'" in lines
    assert "cnn: " in lines


def test_what_a_list_says_of_models_and_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the data or the run fill in is told, and what needs a package that is missing."""
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    models = {part["name"]: part for part in describe_parts("models")}
    assert models["cnn"]["arguments"]["input_shape"] == "from the data"
    assert models["huggingface"]["extra"] == "transformers"
    assert models["logistic_regression"]["arguments"]["C"] == "1.0"
    assert models["svc"] == {
        "name": "svc",
        "summary": "Not installed.",
        "arguments": {},
        "extra": "sklearn",
    }
    cosine = next(part for part in describe_parts("schedules") if part["name"] == "cosine")
    assert cosine["arguments"]["total_num_epochs"] == "the run's NUM_EPOCHS"
    adam = next(part for part in describe_parts("optimizers") if part["name"] == "adam")
    assert adam["arguments"]["lr"] == "0.001"
    assert "params" not in adam["arguments"]


def test_what_a_list_says_of_a_part() -> None:
    lines = run("list", "preprocessors").stdout.split("\n")
    start = lines.index(
        "image_resize: Scales images to one size, by Pillow; sides are scaled apart, so shapes can "
        "be distorted."
    )
    assert lines[start + 1] == '    width (required), height (required), resample ("bilinear")'
    assert lines[start + 2] == '    needs: pip install "loopwright[images]"'
    result = run("list", "dataset")
    assert result.exit_code == 2
    assert 'Did you mean "datasets"?' in result.output


def write(path: Path, **changes: Any) -> str:
    spec: dict[str, Any] = {
        "dataset": {
            "dataset": "digits",
            "preprocessors": [{"type": "divide", "factor": 16}],
            "data_augmentors": [{"type": "invert", "probability": 1.0}],
        },
        "model": {"model": "mlp"},
        "run": {"seed": 0},
    }
    spec["dataset"] |= changes
    path.write_text(yaml.safe_dump(spec))
    return str(path)


def test_a_preview_shows_samples_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "digits.yaml")
    result = run("preview", config, "--samples", "3", "--epochs", "2", "--out", "sheet.png")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"digits.yaml", "sheet.png"}
    sheet = np.asarray(pillow.open("sheet.png")).astype(int)
    assert sheet.shape == (3 * 116, 4 * 116, 3)
    raw, prepared, first, second = (sheet[:112, i * 116 : i * 116 + 112] for i in range(4))
    assert np.abs(raw - prepared).max() <= 1
    assert np.abs(first - (255 - prepared)).max() <= 1
    assert np.array_equal(first, second)
    shown = Experiment.from_yaml(config).preview(3, 1)
    assert np.abs(raw[::14, ::14, 0] - shown.raw[0][0].numpy() * 255 / 16).max() <= 1


def test_what_is_no_image_cannot_be_previewed(tmp_path: Path) -> None:
    config = write(tmp_path / "iris.yaml", dataset="iris", preprocessors=[], data_augmentors=[])
    result = run("preview", config, "--out", str(tmp_path / "sheet.png"))
    assert result.exit_code == 2
    assert "A preview shows images; the model gets samples of the shape (4,)" in result.output
    assert not (tmp_path / "sheet.png").exists()

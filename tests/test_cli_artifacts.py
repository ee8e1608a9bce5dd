"""The commands that use what was trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("sklearn")

from typer.testing import CliRunner  # noqa: E402

from loopwright.cli import make_app  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402

IRIS = """
dataset: {dataset: iris, preprocessors: [standard_scaler]}
model: {model: mlp, training: {epochs: 2}}
run: {seed: 0, threads: 1}
"""


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture
def artifact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    path = folder / "iris.zip"
    if not path.exists():
        (folder / "iris.yaml").write_text(IRIS)
        result = run("train", "iris.yaml", "--save", path)
        assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])


@pytest.mark.parametrize("kind", ["csv", "json", "npy"])
def test_predict_prints_a_line_of_json_for_each_sample(
    artifact: Path, rows: np.ndarray, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / f"rows.{kind}"
    if kind == "npy":
        np.save(file, rows)
    elif kind == "csv":
        file.write_text("a,b,c,d\n" + "\n".join(",".join(map(str, row)) for row in rows))
    else:
        file.write_text(json.dumps({"inputs": rows.tolist()}))
    result = run("predict", artifact, f"--{kind}", file)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    loaded = Experiment.load(artifact)
    assert [line["prediction"] for line in lines] == loaded.predict(rows).tolist()
    assert lines[0]["label"] == loaded.labels_info.names[lines[0]["prediction"]]
    np.testing.assert_allclose([x["probabilities"] for x in lines], loaded.predict_proba(rows))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of --image, --csv, --json, --npy; got none"),
        (["--csv", "a", "--npy", "b"], "got --csv and --npy"),
        (["--csv", "missing.csv"], "--csv: "),
        (["--npy", "object.npy"], "allow_pickle=False"),
        (["--image", "iris.yaml"], "no image of (1 or 3, height, width)"),
    ],
)
def test_predict_says_what_is_wrong_with_its_input(
    artifact: Path, arguments: list[str], message: str
) -> None:
    np.save("object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    result = run("predict", artifact, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_evaluate_tests_again(artifact: Path) -> None:
    result = run("evaluate", artifact, "--json")
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert metrics == Experiment.load(artifact).evaluate()
    assert f"{metrics['test_accuracy']:.6g}" in run("evaluate", artifact).stdout


def test_evaluate_seals_the_test_part_and_counts(tmp_path: Path) -> None:
    """A split by another seed trains on what was sealed, and is refused."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        values = {"run": {"seed": seed, "threads": 1}, "model": {"model": "mlp"}}
        experiment = Experiment.from_dict({"dataset": {"dataset": "wine"}, **values})
        experiment.train(tmp_path, verbose=False)
        experiment.save(tmp_path / f"{name}.zip")
    seal = tmp_path / "wine.seal.json"
    for name, number in (("a", 1), ("b", 2)):
        result = run("evaluate", tmp_path / f"{name}.zip", "--json", "--seal", seal)
        assert result.exit_code == 0, result.output
        assert f"evaluation {number}" in result.stderr
        assert "test_accuracy" in json.loads(result.stdout)
    refused = run("evaluate", tmp_path / "c.zip", "--seal", seal)
    assert refused.exit_code == 2
    assert "seals 44 samples with the hash" in refused.stderr
    assert len(json.loads(seal.read_text())["evaluations"]) == 2


def test_evaluate_refuses_a_sealed_test_part_whose_labels_changed(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    values = [f"{x},{y:.3f}" for x, y in enumerate(np.random.default_rng(0).random(40))]
    file = tmp_path / "table.csv"
    file.write_text("\n".join(["x,y,label", *(f"{row},{n % 2}" for n, row in enumerate(values))]))
    dataset = {"type": "csv", "path": str(file), "target": "label"}
    experiment = Experiment.from_dict(
        {"dataset": {"dataset": dataset}, "model": {"model": "mlp"}, "run": {"threads": 1}}
    )
    experiment.train(tmp_path, verbose=False)
    experiment.save(tmp_path / "table.zip")
    words = ("evaluate", tmp_path / "table.zip", "--seal", tmp_path / "seal.json")
    assert run(*words).exit_code == 0
    turned = (f"{row},{(n + 1) % 2}" for n, row in enumerate(values))
    file.write_text("\n".join(["x,y,label", *turned]))
    refused = run(*words)
    assert refused.exit_code == 2
    assert "with the hash" in refused.stderr


def test_evaluate_refuses_a_model_that_trained_on_sealed_samples(tmp_path: Path) -> None:
    """Rows of the data set that are there twice come to lie on both sides of the split."""
    pytest.importorskip("pyarrow")
    rows = [f"{x},{y:.3f},{x % 2}" for x, y in enumerate(np.random.default_rng(0).random(40))]
    (tmp_path / "twice.csv").write_text("\n".join(["x,y,label", *rows, *rows]))
    dataset = {"type": "csv", "path": str(tmp_path / "twice.csv"), "target": "label"}
    samples = {"train": 0.5, "validation": 0.25, "test": 0.25}
    experiment = Experiment.from_dict(
        {
            "dataset": {"dataset": dataset, "samples": samples},
            "model": {"model": "mlp"},
            "run": {"seed": 0, "threads": 1},
        }
    )
    experiment.train(tmp_path, verbose=False)
    experiment.save(tmp_path / "twice.zip")
    result = run("evaluate", tmp_path / "twice.zip", "--seal", tmp_path / "seal.json")
    assert result.exit_code == 2
    assert "holds samples of the sealed test set" in result.stderr
    assert " exact (row " in result.stderr
    assert json.loads((tmp_path / "seal.json").read_text())["evaluations"] == []


@pytest.mark.parametrize("command", ["predict", "evaluate", "serve"])
def test_a_file_that_is_no_artifact_is_refused(artifact: Path, command: str) -> None:
    arguments = ["--csv", "x"] if command == "predict" else []
    result = run(command, "iris.yaml", *arguments)
    assert result.exit_code == 2
    assert "no saved experiment" in result.stderr


def test_a_place_to_save_is_looked_at_before_training(artifact: Path) -> None:
    before = sorted(Path("runs").iterdir())
    result = run("train", "iris.yaml", "--save", "missing/iris.zip")
    assert result.exit_code == 2
    assert "--save missing/iris.zip" in result.stderr
    assert sorted(Path("runs").iterdir()) == before


def test_schema_describes_a_configuration() -> None:
    schema = json.loads(run("schema").stdout)
    assert schema["properties"].keys() == {"dataset", "model", "tracking", "run"}
    assert schema["$defs"]["TrainingSpec"]["properties"]["epochs"]["minimum"] == 1


def test_doctor_tells_versions_and_missing_extras() -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert found["torch"].startswith("2.")
    assert isinstance(found["missing_extras"], dict)
    assert "torch" in run("doctor").stdout

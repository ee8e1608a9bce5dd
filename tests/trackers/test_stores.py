"""Runs reported to real trackers, and read back from their stores."""

import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
pytest.importorskip("yaml")

from loopwright.errors import ConfigurationError, RunInterrupted  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402
from loopwright.run_folder import read_run  # noqa: E402
from loopwright.trackers.wandb import WandB  # noqa: E402
from trackers.runs import Draw, Stop, declared  # noqa: E402

SECRET = "hunter2hunter2hunter2hunter2hunt"

# SQLAlchemy says that about a way in which MLflow asks it.
mlflow_s_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, where nothing is sent anywhere and a secret is at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(sys, "argv", ["loopwright", "--set", f"api_key={SECRET}"])


def epochs_of(folder: str = "run") -> dict[str, dict[int, float]]:
    """Return what the run folder holds of each metric, by epoch."""
    curves = read_run(folder).curves()
    return {name: dict(points) for name, points in curves.items()}


def assert_no_secret_in(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_tensorboard_holds_the_run() -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    experiment = Experiment.from_dict(declared("tensorboard"))
    results = experiment.train(callbacks=[Draw()])
    reader = EventAccumulator("run/tensorboard")
    reader.Reload()
    found = {
        name: {event.step: event.value for event in reader.Scalars(name)}
        for name in reader.Tags()["scalars"]
    }
    expected = epochs_of() | {
        name: {3: value} for name, value in results["metrics"].items() if name.startswith("test_")
    }
    assert found == {name: pytest.approx(values) for name, values in expected.items()}
    texts = {name: reader.Tensors(name)[0] for name in reader.Tags()["tensors"]}
    written = {n: e.tensor_proto.string_val[0].decode() for n, e in texts.items()}
    assert written["parameters/training.optimizer.lr/text_summary"] == "0.01"
    assert written["tags/team/text_summary"] == "vision"
    assert written["tags/status/text_summary"] == "finished"
    (image,) = reader.Images("square-2")
    assert (image.width, image.height) == (3, 2)
    assert image.encoded_image_string == Path("run/pictures/square-2.png").read_bytes()
    stored = Path("run/tensorboard/assets/report.html").read_bytes()
    assert stored == Path("run/report.html").read_bytes()


@pytest.mark.slow
@mlflow_s_warnings
def test_mlflow_holds_the_run_and_goes_on_with_it() -> None:
    """The store is a database of SQLite; the run is stopped in its middle and goes on."""
    client_of = pytest.importorskip("mlflow").MlflowClient
    store = "sqlite:///store.db"
    tracker = {"type": "mlflow", "experiment_name": "flowers", "tracking_uri": store}
    client = client_of(store)
    client.search_experiments()  # makes the database, which takes seconds
    with pytest.raises(RunInterrupted):
        Experiment.from_dict(declared(tracker)).train(callbacks=[Draw(), Stop(2)])
    place = client.get_experiment_by_name("flowers").experiment_id
    (stopped,) = client.search_runs([place])
    assert stopped.info.status == "KILLED"
    experiment = Experiment.from_dict(declared(tracker))
    results = experiment.train(callbacks=[Draw()], resume=True)

    (run,) = client.search_runs([place])
    assert run.info.run_id == stopped.info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.tags["team"] == "vision"
    assert run.data.tags["loopwright.run_id"] == experiment.spec.tracking.run_id
    assert run.data.params["model.hidden"] == "[4]"
    assert run.data.params["training.optimizer.lr"] == "0.01"
    for name, values in epochs_of().items():
        history = client.get_metric_history(run.info.run_id, name)
        assert {each.step: each.value for each in history} == values
    assert run.data.metrics["test_accuracy"] == results["metrics"]["test_accuracy"]
    files = {each.path for each in client.list_artifacts(run.info.run_id)}
    expected = {"config.yaml", "metrics.jsonl", "results.json", "report.html", "images"}
    assert expected <= files
    images = [each.path for each in client.list_artifacts(run.info.run_id, "images")]
    assert images == [f"images/square-{epoch}.png" for epoch in (1, 2, 3)]

    (again,) = experiment.tracking.trackers  # MLflow refuses another value, which is no failure
    again.start(run.data.tags["loopwright.run_id"], "run")
    again.log_param("training.optimizer.lr", 1.0)
    again.end()
    assert client.get_run(run.info.run_id).data.params["training.optimizer.lr"] == "0.01"


@pytest.mark.slow
def test_wandb_offline_holds_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    experiment = Experiment.from_dict(
        declared({"type": "wandb", "project": "flowers", "mode": "offline"})
    )
    experiment.train(callbacks=[Draw()])
    wandb.teardown()  # its process closes the file some time after the run
    (log,) = Path("run/wandb").rglob("*.wandb")
    content = log.read_bytes()
    for name, values in epochs_of().items():
        assert name.encode() in content
        for value in values.values():
            assert json.dumps(value).encode() in content
    for words in ("training.optimizer.lr", "tags/team", "test_accuracy", "square-3", "flowers"):
        assert words.encode() in content, words
    run_id = experiment.to_dict()["tracking"]["run_id"]
    for file in ("config.yaml", "report.html"):
        assert f"run-{run_id}-{file}".encode() in content
    assert len(list(Path("run/wandb").rglob("*.png"))) == 3
    assert_no_secret_in(Path("run"))


def wandb_rows(log: Path) -> Iterator[dict[str, Any]]:
    """Give what was logged to an offline file: records in blocks of 32 KiB, after 7 bytes each."""
    record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    content, place, begun = log.read_bytes(), 7, b""
    while place < len(content):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        begun += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            items = record.FromString(begun).history.item
            yield {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items}
            begun = b""


@pytest.mark.slow
def test_wandb_takes_a_list_after_later_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """G-40: two lists of steps from 0, in a run whose epochs were logged already.

    A metric that a user calls `step` is one like others.
    """
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    tracker = WandB(project="flowers", mode="offline")
    tracker.start("first", ".")
    for epoch in (1, 2):
        tracker.log_metric("loss", 1 / epoch, epoch)
    tracker.log_metrics({"a": [3.0, 2.0, 1.0], "b": [5.0, 4.0]}, "own_")
    tracker.log_metric("loss", 0.25, 3)
    tracker.log_metric("step", 0.125, 4)
    tracker.end()
    wandb.teardown()
    (log,) = Path("wandb").rglob("*.wandb")
    rows = list(wandb_rows(log))
    found = {
        name: [(row["loopwright/step"], row[name]) for row in rows if name in row]
        for name in ("loss", "own_a", "own_b", "step")
    }
    assert found == {
        "loss": [(1, 1.0), (2, 0.5), (3, 0.25)],
        "own_a": [(0, 3.0), (1, 2.0), (2, 1.0)],
        "own_b": [(0, 5.0), (1, 4.0)],
        "step": [(4, 0.125)],
    }


@pytest.mark.slow
def test_comet_offline_holds_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comet_ml")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # comet puts its own there
    tracker = {"type": "comet_ml", "api_key": SECRET, "project_name": "flowers", "offline": True}
    experiment = Experiment.from_dict(declared(tracker))
    experiment.train(callbacks=[Draw()])
    (path,) = Path("run").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("messages.json").decode().splitlines()
        assert json.loads(archive.read("experiment.json"))["project_name"] == "flowers"
        assert not any(SECRET.encode() in archive.read(name) for name in archive.namelist())
    messages: dict[str, list[Any]] = {}
    for line in map(json.loads, lines):
        messages.setdefault(line["type"], []).append(line["payload"])
    logged: dict[str, dict[int, float]] = {}
    for metric in (each["metric"] for each in messages["metric_msg"]):
        logged.setdefault(metric["metricName"], {})[metric["step"]] = metric["metricValue"]
    assert epochs_of().items() <= logged.items()
    told = [each["param"] for each in messages["parameter_msg"]]
    params = {each["paramName"]: each["paramValue"] for each in told}
    assert params["training.optimizer.lr"] == 0.01
    others = {each["key"]: each["value"] for each in messages["log_other"]}
    assert (others["team"], others["status"]) == ("vision", "finished")
    about = [each["additional_params"] for each in messages["file_upload"]]
    files = {each.get("fileName") or each.get("figName") for each in about}
    assert {"config.yaml", "report.html", "square-1"} <= files
    assert_no_secret_in(Path("run"))


def test_a_missing_package_is_a_mistake_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told with the others, before anything is trained."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    values = declared({"type": "mlflow"})
    values["run"]["checkpoint"] = {"watch": "acuracy", "keep_best": 1}
    with pytest.raises(ConfigurationError) as caught:
        Experiment.from_dict(values).train()
    message = str(caught.value)
    assert "2 mistakes" in message
    assert "tracking.trackers[0]: 'mlflow' is needed here and is not installed" in message
    assert 'pip install "loopwright[mlflow]"' in message
    assert 'Did you mean "accuracy"' in message
    assert not Path("run").exists()

"""Trackers on threads of their own: order, failures, hanging, full queues, and what is told."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
pytest.importorskip("yaml")

from loopwright.errors import ConfigurationError, RunInterrupted  # noqa: E402
from loopwright.events import TrainerCallback  # noqa: E402
from loopwright.experiment import Experiment, Tracking  # noqa: E402
from loopwright.experiment_tracking import TrackingCallback  # noqa: E402
from loopwright.run_folder import read_run  # noqa: E402
from loopwright.trackers import History, Tracker, TrackerList, delivery, trackers  # noqa: E402
from loopwright.trainer import Trainer  # noqa: E402
from trackers.runs import Draw, Stop, declared  # noqa: E402

WHERE = "trackers.test_delivery"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Memory(Tracker):
    """Keeps the calls, with the thread of each."""

    def __init__(self, api_key: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[threading.Thread] = set()

    def _take(self, *call: Any) -> None:
        self.calls.append(call)
        self.threads.add(threading.current_thread())

    def start(self, run_id: str, logdir: str) -> None:
        self._take("start", run_id, logdir)

    def log_tag(self, name: str, value: Any) -> None:
        self._take("tag", name, value)

    def log_asset(self, name: str, path: str) -> None:
        self._take("asset", name)

    def log_image(self, name: str, path: str) -> None:
        self._take("image", name, Path(path).read_bytes()[:4])

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        self._take("metric", name, value, step)

    def log_param(self, name: str, value: Any, step: int | None = None) -> None:
        self._take("param", name, value)

    def end(self) -> None:
        self._take("end")

    def named(self, kind: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == kind]


class Failing(Memory):
    """Takes the start and fails from then on."""

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        super().log_metric(name, value, step)
        raise ConnectionError("no route to http://me:hunter2@tracker")


class Unreachable(Memory):
    """Fails at the start, with its key in the message."""

    def __init__(self, api_key: str) -> None:
        super().__init__()
        self.api_key = api_key

    def start(self, run_id: str, logdir: str) -> None:
        raise RuntimeError(f"key {self.api_key} is not known\nlong advice")


class Hanging(Memory):
    """Never comes back from its first metric, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        self.gate.wait()
        super().log_metric(name, value, step)


def test_G_52_what_a_run_reports() -> None:
    experiment = Experiment.from_dict(declared(f"{WHERE}:Memory"))
    results = experiment.train(callbacks=[Draw()])
    (memory,) = experiment.tracking.trackers
    assert isinstance(memory, Memory)
    run_id = experiment.to_dict()["tracking"]["run_id"]
    assert memory.calls[0] == ("start", run_id, str(Path("run").absolute()))
    assert memory.named("tag") == [("team", "vision"), ("status", "finished")]
    params = dict(memory.named("param"))
    assert params["model.type"] == "mlp"
    assert params["model.hidden"] == "[4]"
    assert params["training.optimizer.lr"] == 0.01
    rows = {
        (name, row.epoch): value
        for row in read_run("run").metrics
        if row.event is None
        for name, value in row.metrics.items()
    }
    tested = {(k, 3): v for k, v in results["metrics"].items() if k.startswith("test_")}
    assert len(tested) == 2
    logged = {(name, step): value for name, value, step in memory.named("metric")}
    assert logged == rows | tested
    assert len(logged) == len(memory.named("metric"))
    assert memory.named("image") == [(f"square-{epoch}", b"\x89PNG") for epoch in (1, 2, 3)]
    files = ["config.yaml", "environment.json", "metrics.jsonl", "results.json", "report.html"]
    assert [name for (name,) in memory.named("asset")] == files
    assert memory.calls[-1] == ("end",)
    (thread,) = memory.threads
    assert thread is not threading.main_thread()
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("flag", "kind"), [("log_params", "model"), ("log_training_params", "training")]
)
def test_G_36_parameters_can_be_left_out(flag: str, kind: str) -> None:
    experiment = Experiment.from_dict(declared(f"{WHERE}:Memory", **{flag: False}))
    experiment.train()
    (memory,) = experiment.tracking.trackers
    assert isinstance(memory, Memory)
    kinds = {name.partition(".")[0] for name, _ in memory.named("param")}
    assert kinds == {"model", "training"} - {kind}


def test_G_35_metrics_can_be_left_out() -> None:
    experiment = Experiment.from_dict(declared(f"{WHERE}:Memory", log_metrics=False))
    experiment.train()
    (memory,) = experiment.tracking.trackers
    assert isinstance(memory, Memory)
    assert memory.named("metric") == []
    assert memory.named("param")


def test_G_37_and_G_38_trackers_in_order_with_their_arguments() -> None:
    trackers_of = Tracking(trackers=[{"type": "history"}, f"{WHERE}:Memory"]).trackers
    assert [type(each) for each in trackers_of] == [History, Memory]
    assert len(trackers_of) == 2
    with pytest.raises(ConfigurationError, match=r"trackers\[0\].experiment_nam: unknown arg.*Did"):
        Tracking(trackers=[{"type": "mlflow", "experiment_nam": "a"}])
    with pytest.raises(ConfigurationError, match='Did you mean "tensorboard"'):
        Tracking(trackers=["tensorbord"])


def test_G_26_and_G_59_trackers_are_made_once_and_serve_again() -> None:
    experiment = Experiment.from_dict(declared(f"{WHERE}:Memory"))
    made = experiment.tracking.trackers
    experiment.train()
    experiment.spec = experiment.spec.model_copy(
        update={"run": experiment.spec.run.model_copy(update={"folder": "again"})}
    )
    experiment.train()
    assert experiment.tracking.trackers is made
    (memory,) = made
    assert isinstance(memory, Memory)
    assert len(made) == 1
    assert len(memory.named("start")) == len(memory.named("end")) == 2


def test_numbers_that_are_not_finite_are_told_and_arrays_are_not() -> None:
    memory = Memory()
    told = TrackerList({"memory": memory})
    told.start("id", ".")
    callback = TrackingCallback(told, Path(), log_metrics=True)
    callback.log_metrics({"loss": torch.tensor(torch.inf), "matrix": torch.eye(2)}, 3)
    told.end()
    assert memory.named("metric") == [("loss", torch.inf, 3)]


def test_an_estimator_of_scikit_learn_is_reported() -> None:
    values = declared(f"{WHERE}:Memory")
    values["model"] = {"model": "logistic_regression"}
    del values["run"]["checkpoint"]
    experiment = Experiment.from_dict(values)
    results = experiment.train()
    (memory,) = experiment.tracking.trackers
    assert isinstance(memory, Memory)
    logged = {name: value for name, value, _ in memory.named("metric")}
    assert logged["test_accuracy"] == results["metrics"]["test_accuracy"]
    assert logged["accuracy"] == results["metrics"]["accuracy"]


def test_G_39_and_G_40_a_list_is_one_metric_per_step() -> None:
    memory = Memory()
    memory.log_metrics({"loss": [3.0, 2.0], "accuracy": 0.5}, prefix="test_")
    assert memory.named("metric") == [
        ("test_loss", 3.0, 0),
        ("test_loss", 2.0, 1),
        ("test_accuracy", 0.5, None),
    ]


def test_a_tracker_by_decorator() -> None:
    trackers.register("in_memory")(Memory)
    try:
        assert isinstance(Tracking(trackers=["in_memory"]).trackers[0], Memory)
    finally:
        del trackers._parts["in_memory"]


def test_what_a_run_logs_itself_reaches_trackers_and_the_report() -> None:
    pyplot = pytest.importorskip("matplotlib.figure")
    memory = Memory()
    told = TrackerList({"memory": memory})
    with pytest.raises(RuntimeError, match="while a run goes on"):
        told.log_metric("own", 1.0)
    told.start("id", ".")
    figure = pyplot.Figure(figsize=(1, 1))
    told.log_figure("confusion", figure)
    figure.clear()
    told.log_figure("of/classes", figure)
    told.log_metrics({"own": [1.0, 2.0]})
    told.log_asset("notes.txt", "notes.txt")
    told.end()
    assert Path("pictures/confusion.png").is_file()
    assert Path("pictures/of-classes.png").is_file()
    assert memory.named("image") == [("confusion", b"\x89PNG"), ("of/classes", b"\x89PNG")]
    assert memory.named("metric") == [("own", 1.0, 0), ("own", 2.0, 1)]
    assert memory.named("asset") == [("notes.txt",)]


def test_a_figure_of_a_callback_is_told_once_each_time_it_is_drawn() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(1, 1))
    experiment = Experiment.from_dict(declared(f"{WHERE}:Memory"))

    class DrawAgain(TrainerCallback):
        def on_train_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
            experiment.tracking.trackers.log_figure("confusion", figure)

    experiment.train(callbacks=[DrawAgain()])
    (memory,) = experiment.tracking.trackers
    assert isinstance(memory, Memory)
    assert memory.named("image") == [("confusion", b"\x89PNG")] * 3


@pytest.mark.parametrize("run_id", ["it's", "a/b", "", "x" * 65])
def test_ids_that_stores_refuse_are_told_before_training(run_id: str) -> None:
    with pytest.raises(ConfigurationError, match=r"run_id: expected letters, digits"):
        Experiment.from_dict(declared(run_id=run_id))


def test_tags_that_look_secret_are_masked() -> None:
    values = declared(f"{WHERE}:Memory", tags={"db_password": "hunter2", "team": "vision"})
    experiment = Experiment.from_dict(values)
    experiment.train()
    (memory,) = experiment.tracking.trackers
    assert isinstance(memory, Memory)
    assert memory.named("tag")[:2] == [("db_password", "***"), ("team", "vision")]


def test_a_tracker_that_fails_is_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Experiment.from_dict(declared()).train()
    Path("run").rename("silent")
    experiment = Experiment.from_dict(declared(f"{WHERE}:Failing", f"{WHERE}:Memory"))
    results = experiment.train()
    assert results["fingerprint"] == silent["fingerprint"]
    failing, memory = experiment.tracking.trackers
    assert isinstance(failing, Failing)
    assert isinstance(memory, Memory)
    assert len(memory.named("metric")) == len(failing.named("metric")) == 14
    assert failing.named("end") == [()]
    err = capsys.readouterr().err
    assert err == (
        f"Tracker {WHERE}:Failing failed: ConnectionError: no route to http://me:***@tracker. "
        "Training does not wait for it; the run folder holds all.\n"
    )


def test_a_tracker_that_cannot_start_gets_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = {"type": f"{WHERE}:Unreachable", "api_key": "hunter2"}
    experiment = Experiment.from_dict(declared(tracker))
    experiment.train()
    (tracked,) = experiment.tracking.trackers
    assert isinstance(tracked, Unreachable)
    assert tracked.calls == []
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "RuntimeError: key *** is not known. Training" in err
    assert not any(b"hunter2" in p.read_bytes() for p in Path("run").rglob("*") if p.is_file())


def test_a_tracker_that_hangs_delays_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "SILENT_SECONDS", 0.0)
    experiment = Experiment.from_dict(declared(f"{WHERE}:Hanging"))
    (hanging,) = experiment.tracking.trackers
    assert isinstance(hanging, Hanging)
    experiment.train()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Hanging has not answered for 0 seconds" in err
    for run_id in ("next", "the one after"):
        experiment.tracking.trackers.start(run_id, ".")
        experiment.tracking.trackers.end()
        assert "is still busy with the run before" in capsys.readouterr().err
    hanging.gate.set()
    for _ in range(500):
        if hanging.named("end"):
            break
        time.sleep(0.01)
    assert len(hanging.named("metric")) == 14
    assert len(hanging.named("start")) == 1


def test_the_end_waits_only_so_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "END_SECONDS", 0.1)
    hanging = [Hanging(), Hanging()]
    told = TrackerList({"first": hanging[0], "second": hanging[1]})
    told.start("id", ".")
    told.log_metric("loss", 1.0)
    began = time.monotonic()
    told.end()
    assert 0.1 <= time.monotonic() - began < 5
    for each in hanging:
        each.gate.set()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(". ")[0] for line in lines] == [
        "Tracker first has not taken everything 0.1 seconds after the end",
        "Tracker second has not taken everything 0.1 seconds after the end",
    ]


def test_the_queue_is_bounded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "MAX_WAITING", 5)
    hanging = Hanging()
    told = TrackerList({"slow": hanging})
    told.start("id", ".")
    for step in range(100):
        told.log_metric("loss", 1.0, step)
    assert capsys.readouterr().err.startswith("Tracker slow is too slow: 5 calls wait")
    hanging.gate.set()
    told.end()
    assert 4 <= len(hanging.named("metric")) <= 6  # with the start, and one that was under way
    assert hanging.calls[-1] == ("end",)
    assert capsys.readouterr().err == ""


def test_the_tag_of_how_a_run_ended_is_its_own() -> None:
    config = declared(f"{WHERE}:Memory")
    config["tracking"]["tags"] = {"status": "prod"}
    with pytest.raises(ConfigurationError, match=r"tracking\.tags\.status.*another name"):
        Experiment.from_dict(config)


def test_a_run_that_goes_on_reports_the_rest_under_its_id() -> None:
    with pytest.raises(RunInterrupted):
        Experiment.from_dict(declared(f"{WHERE}:Memory")).train(callbacks=[Stop(2)])
    experiment = Experiment.from_dict(declared(f"{WHERE}:Memory"))
    experiment.train(resume=True)
    (memory,) = experiment.tracking.trackers
    assert isinstance(memory, Memory)
    ((run_id, _),) = memory.named("start")
    assert run_id in read_run("run").config
    steps = {step for name, _, step in memory.named("metric") if name == "train_loss_epoch"}
    assert steps == {2, 3}


def test_how_a_run_ended_is_told() -> None:
    stopped = Experiment.from_dict(declared(f"{WHERE}:Memory"))
    with pytest.raises(RunInterrupted):
        stopped.train(callbacks=[Stop(1)])
    values = declared(f"{WHERE}:Memory")
    values["run"]["folder"] = "diverged"
    values["model"]["training"]["optimizer"] = {"type": "sgd", "lr": 1e30}
    failed = Experiment.from_dict(values)
    with pytest.raises(ArithmeticError):
        failed.train()
    for experiment, status in ((stopped, "stopped"), (failed, "failed")):
        (memory,) = experiment.tracking.trackers
        assert isinstance(memory, Memory)
        assert memory.named("tag")[-1] == ("status", status)
        assert memory.calls[-1] == ("end",)


def test_a_saved_experiment_names_no_tracker_and_no_secret() -> None:
    tracker = {"type": f"{WHERE}:Memory", "api_key": "hunter2"}
    experiment = Experiment.from_dict(declared(tracker))
    experiment.train()
    experiment.save("saved.zip")
    loaded = Experiment.load("saved.zip")
    assert loaded.to_dict()["tracking"]["tags"] == {"team": "vision"}
    assert len(loaded.tracking.trackers) == 0

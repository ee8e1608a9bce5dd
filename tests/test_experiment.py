"""Tests of declared runs: from values to a trained and tested model, and its folder."""

import json
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
yaml = pytest.importorskip("yaml")

from loopwright.checkpoint_policy import CheckpointPolicy  # noqa: E402
from loopwright.cli_training import resuming_command  # noqa: E402
from loopwright.config_file import ConfigSource, apply_overrides  # noqa: E402
from loopwright.errors import ConfigurationError, RunInterrupted  # noqa: E402
from loopwright.events import TrainerCallback  # noqa: E402
from loopwright.experiment import DivergedError, Experiment  # noqa: E402
from loopwright.experiment_config import CheckpointSpec  # noqa: E402
from loopwright.problems import ProblemsError  # noqa: E402
from loopwright.run_record import read_run  # noqa: E402
from loopwright.trainer import Trainer  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def iris(**run: Any) -> dict[str, Any]:
    return {
        "dataset": {
            "dataset": {"type": "iris"},
            "samples": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "preprocessors": [{"type": "standard_scaler"}],
        },
        "model": {
            "model": {"type": "mlp", "hidden": [16]},
            "training": {"epochs": 3, "batch_size": 16, "optimizer": {"type": "adam", "lr": 0.02}},
        },
        "run": {"seed": 3} | run,
    }


class Watch(TrainerCallback):
    """Keeps the trainer of a run."""

    trainer: Trainer

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.trainer = trainer


def test_a_run_reports_train_validation_and_test(tmp_path: Path) -> None:
    experiment = Experiment.from_dict(iris(folder="mine"))
    results = experiment.train()
    assert set(results["metrics"]) == {
        "train_loss_epoch",
        "train_accuracy",
        "eval_loss_epoch",
        "accuracy",
        "test_loss",
        "test_accuracy",
    }
    assert results["run_folder"] == Path("mine")
    run = read_run("mine")
    assert run.status["status"] == "finished"
    assert run.results["metrics"] == results["metrics"]
    assert [row.epoch for row in run.metrics if row.event is None] == [1, 2, 3]
    assert [row.event for row in run.metrics if row.event] == ["evaluation"]
    assert run.results["parameters"] == 4 * 16 + 16 + 16 * 3 + 3


def test_G_44_to_G_50_what_train_returns() -> None:
    """G-44, G-45, G-46, G-47, G-48, G-49, G-50: its keys, and those of each stage."""
    results = Experiment.from_dict(iris()).train()
    assert {"elapsed", "metrics", "hardware_info"} <= results.keys()
    assert set(results["hardware_info"]) == {"cpu", "gpus", "platform"}
    stages = {"load_data", "fit_preprocessors", "transform_data", "fit_model", "evaluate_model"}
    assert stages | {"total"} <= results["elapsed"].keys()
    for stage in results["elapsed"].values():
        assert set(stage) == {"start", "end", "duration"}
        assert stage["duration"] >= 0


def test_the_test_figures_equal_those_computed_by_hand() -> None:
    watch = Watch()
    results = Experiment.from_dict(iris()).train(callbacks=[watch])
    features, labels = watch.trainer.eval_dataset
    with torch.no_grad():
        outputs = watch.trainer.model.eval()(features)
    accuracy = (outputs.argmax(dim=1) == labels).double().mean().item()
    assert results["metrics"]["test_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    loss = nn.functional.cross_entropy(outputs.double(), labels).item()
    assert results["metrics"]["test_loss"] == pytest.approx(loss, rel=1e-6)
    assert len(labels) == 30


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generators_alone() -> None:
    weights = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        watch = Watch()
        spec = iris()
        spec["model"]["model"]["dropout"] = 0.3
        Experiment.from_dict(spec).train(callbacks=[watch])
        weights.append(nn.utils.parameters_to_vector(watch.trainer.model.parameters()))
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(*weights)


def test_the_stored_configuration_gives_the_same_run_again() -> None:
    spec = iris(folder="first")
    del spec["run"]["seed"]
    first = Experiment.from_dict(spec).train()
    again = Experiment.from_yaml("first/config.yaml")
    assert again.spec.run.seed is not None
    second = again.train()
    assert second["run_folder"] != first["run_folder"]
    assert second["metrics"] == first["metrics"]


def test_G_25_later_changes_to_the_caller_s_dict_do_not_reach_the_experiment() -> None:
    spec = iris()
    experiment = Experiment.from_dict(spec)
    before = experiment.to_dict()
    spec["model"]["model"]["hidden"].append(1000)
    spec["run"]["seed"] = 99
    assert experiment.to_dict() == before


def test_to_dict_rebuilds_an_equal_experiment() -> None:
    """G-24, G-32, G-41: the keys that a rebuilt experiment is made of."""
    values = Experiment.from_dict(iris()).to_dict()
    assert Experiment.from_dict(values).to_dict() == values
    assert values["dataset"]["samples"] == {"train": 0.6, "validation": 0.2, "test": 0.2}
    assert set(values["model"]) == {"model", "training"}
    assert {
        "run_id",
        "tags",
        "log_params",
        "log_metrics",
        "log_training_params",
        "trackers",
    } == set(values["tracking"])


def test_G_01_and_G_02_keywords_and_positional_order() -> None:
    spec = iris()
    named = Experiment(dataset=spec["dataset"], model=spec["model"], run=spec["run"])
    ordered = Experiment(spec["model"], spec["dataset"], {"run_id": "x"}, spec["run"])
    assert ordered.spec.tracking.run_id == "x"
    assert named.spec.model == ordered.spec.model


def test_G_35_and_G_36_tracking_defaults() -> None:
    first, second = (Experiment.from_dict(iris()).spec.tracking for _ in range(2))
    assert first.run_id != second.run_id
    assert len(first.run_id or "") == 32
    assert (first.log_params, first.log_metrics, first.log_training_params) == (True, True, True)


def test_without_a_validation_part_nothing_is_evaluated_during_training() -> None:
    """P-45; the test part is looked at once, at the end."""
    spec = iris()
    spec["dataset"]["samples"] = {"train": 0.8}
    results = Experiment.from_dict(spec).train()
    assert "eval_loss_epoch" not in results["metrics"]
    assert results["metrics"]["test_accuracy"] > 0.5


def test_G_19_and_G_21_one_hot_labels_give_the_same_training() -> None:
    plain = Experiment.from_dict(iris()).train()["metrics"]
    spec = iris()
    spec["dataset"]["one_hot"] = True
    watch = Watch()
    metrics = Experiment.from_dict(spec).train(callbacks=[watch])["metrics"]
    assert watch.trainer.train_dataset[1].shape == (90, 3)
    assert watch.trainer.eval_dataset[1].shape == (30, 3)
    assert metrics["test_accuracy"] == plain["test_accuracy"]
    assert metrics["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-5)


def test_G_54_preprocessors_are_fitted_on_the_training_part_only() -> None:
    watch = Watch()
    Experiment.from_dict(iris()).train(callbacks=[watch])
    train, test = watch.trainer.train_dataset[0], watch.trainer.eval_dataset[0]
    assert train.mean(dim=0).abs().max() < 1e-5
    assert test.mean(dim=0).abs().max() > 1e-3


def test_G_14_preprocessors_run_in_order() -> None:
    spec = iris()
    spec["dataset"]["preprocessors"] = ["standard_scaler", {"type": "divide", "factor": 0.5}]
    watch = Watch()
    Experiment.from_dict(spec).train(callbacks=[watch])
    std = watch.trainer.train_dataset[0].std(dim=0, correction=0)
    torch.testing.assert_close(std, torch.full((4,), 2.0), rtol=1e-5, atol=1e-5)


def test_G_12_rows_left_over_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    spec = iris()
    spec["dataset"]["samples"] = {"train": 0.5, "test": 0.2}
    with caplog.at_level(logging.WARNING):
        Experiment.from_dict(spec)
    assert "add up to 0.7" in caplog.text


def test_a_regression_has_its_own_defaults() -> None:
    spec = iris()
    spec["dataset"]["dataset"] = "diabetes"
    results = Experiment.from_dict(spec).train()
    assert set(results["metrics"]) == {"train_loss_epoch", "eval_loss_epoch", "test_loss"}


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes", "digits"])
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_every_embedded_data_set_trains(name: str, schedule: str) -> None:
    spec = iris()
    spec["dataset"]["dataset"]["type"] = name
    training = spec["model"]["training"]
    training |= {"epochs": 1, "gradient_accumulation_steps": 3, "gradient_clip_norm": 1.0}
    training["schedule"] = {"type": schedule} | ({"max_lr": 0.1} if schedule == "one_cycle" else {})
    results = Experiment.from_dict(spec).train()
    assert results["steps"] >= 1


def test_rate_and_momentum_follow_declared_functions() -> None:
    """L-89, L-90, L-91, L-92, L-93: by name; the accuracy is that of the validation part."""
    spec = iris()
    training = spec["model"]["training"]
    training["optimizer"] = {"type": "sgd", "lr": 1.0, "momentum": 0.9}
    training["schedule"] = {"type": "decay_when_accuracy", "initial_lr": 0.25}
    training["momentum_schedule"] = {"type": "triangular_momentum", "stepsize": "6 * NUM_EPOCHS"}
    watch = Watch()
    Experiment.from_dict(spec).train(callbacks=[watch])
    (group,) = watch.trainer.optimizer.param_groups
    assert group["lr"] <= 0.25
    assert group["momentum"] == pytest.approx(1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("key", "schedule", "message"),
    [
        ("schedule", {"type": "triangular", "stepsise": 3}, "stepsize"),
        ("schedule", {"type": "triangular", "stepsize": 0}, "stepsize=0"),
        ("schedule", "triangular_momentum", "momentum_schedule"),
        ("momentum_schedule", "cosine", "CosineLrScheduler schedules the learning rate"),
    ],
)
def test_schedules_are_checked_before_the_run(key: str, schedule: Any, message: str) -> None:
    spec = iris()
    spec["model"]["training"][key] = schedule
    with pytest.raises(ProblemsError, match=f"(?s)model.training.{key}.*{message}"):
        Experiment.from_dict(spec).train()


def test_declared_callbacks_run() -> None:
    spec = iris(callbacks=[{"type": "early_stopping", "early_stopping_threshold": 1e6}])
    spec["model"]["training"]["epochs"] = 50
    results = Experiment.from_dict(spec).train()
    assert results["epochs"] < 5


def test_max_steps_ends_a_run() -> None:
    spec = iris()
    spec["model"]["training"]["max_steps"] = 4
    assert Experiment.from_dict(spec).train()["steps"] == 4


def test_threads_hold_for_the_run_only() -> None:
    seen = []

    class Threads(TrainerCallback):
        def on_train_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
            seen.append(torch.get_num_threads())

    Experiment.from_dict(iris(threads=2)).train(callbacks=[Threads()])
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


def test_a_loss_that_is_not_finite_fails_the_run() -> None:
    spec = iris(folder="bad")
    spec["model"]["training"]["optimizer"] = {"type": "sgd", "lr": 1e30}
    with pytest.raises(DivergedError, match="gradient_clip_norm"):
        Experiment.from_dict(spec).train()


def test_a_run_is_named_after_its_file_or_its_data(tmp_path: Path) -> None:
    assert Experiment.from_dict(iris()).name == "iris"
    assert Experiment.from_dict(iris(name="mine")).name == "mine"
    (tmp_path / "My run!.yaml").write_text(yaml.safe_dump(iris()))
    assert Experiment.from_yaml(tmp_path / "My run!.yaml").name == "My-run-"


class OwnModel(nn.Module):
    """Stands for a user's model; it is found by its path."""

    def __init__(self, input_shape: list[int], classes: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_shape[0], width), nn.Tanh(), nn.Linear(width, classes)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs)
        return outputs


def test_a_model_of_one_s_own_by_path() -> None:
    spec = iris()
    spec["model"]["model"] = {"type": f"{__name__}:OwnModel", "width": 7}
    assert Experiment.from_dict(spec).train()["parameters"] == 4 * 7 + 7 + 7 * 3 + 3
    spec["model"]["model"]["widht"] = spec["model"]["model"].pop("width")
    with pytest.raises(ProblemsError, match='Did you mean "width"'):
        Experiment.from_dict(spec)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "dataset:\n"
        "  dataset: {type: digit}\n"
        "  sampels: {train: 0.8}\n"
        "model:\n"
        "  model: {type: mlp, hiden: [3]}\n"
        "  training:\n"
        "    epochs: many\n"
        "    optimizer: {type: adam, lr: fast}\n"
        "run:\n"
        "  checkpoint: {every_epoch: 1, keep_best: many}\n"
    )
    with pytest.raises(ProblemsError) as caught:
        Experiment.from_yaml(path)
    told = [(p.source, ".".join(map(str, p.path)), p.suggestion) for p in caught.value.problems]
    assert told == [
        ("line 2", "dataset.dataset.type", "digits"),
        ("line 3", "dataset.sampels", "samples"),
        ("line 5", "model.model.hiden", "hidden"),
        ("line 7", "model.training.epochs", None),
        ("line 8", "model.training.optimizer.lr", None),
        ("line 10", "run.checkpoint.keep_best", None),
        ("line 10", "run.checkpoint.every_epoch", "every_epochs"),
    ]
    assert str(caught.value).startswith("bad.yaml holds 7 mistakes:")


def test_mistakes_that_show_when_parts_are_made_are_told_at_once_and_nothing_is_written() -> None:
    spec = iris(folder="never", device="cuda:99")
    spec["model"]["model"]["dropout"] = 2.0
    spec["model"]["training"]["optimizer"]["lr"] = -1.0
    with pytest.raises(ProblemsError) as caught:
        Experiment.from_dict(spec).train()
    paths = {".".join(map(str, problem.path)) for problem in caught.value.problems}
    assert paths == {"run.device", "model.model", "model.training.optimizer"}
    assert not Path("never").exists()


def checkpoints_of(folder: str) -> dict[str, float | None]:
    """Return the watched metric of each checkpoint, by its name."""
    manifests = Path(folder).glob("checkpoints/step-*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["metric"] for path in manifests}


def test_the_declared_checkpoints_are_saved_and_kept() -> None:
    policy = {"every_epochs": 1, "keep_latest": 1, "keep_best": 1, "watch": "eval_loss_epoch"}
    spec = iris(folder="mine", checkpoint=policy)
    watch = Watch()
    Experiment.from_dict(spec).train(callbacks=[watch])
    assert watch.trainer.checkpoint == CheckpointPolicy(every_epochs=1, keep_latest=1, keep_best=1)
    losses = read_run("mine").results["history"]["eval_loss_epoch"]
    best = min(range(3), key=losses.__getitem__)
    assert checkpoints_of("mine").keys() == {f"step-{6 * (best + 1):08d}", "step-00000018"}
    assert checkpoints_of("mine")[f"step-{6 * (best + 1):08d}"] == losses[best]


def test_without_a_policy_the_end_is_saved_alone() -> None:
    Experiment.from_dict(iris(folder="mine")).train()
    assert list(checkpoints_of("mine")) == ["step-00000018"]


def test_the_fields_of_a_declared_policy_are_those_of_the_trainer_s() -> None:
    assert CheckpointSpec().policy() == CheckpointPolicy()
    assert list(CheckpointSpec.model_fields) == [f.name for f in fields(CheckpointPolicy)]


@pytest.mark.parametrize("policy", [{"keep_best": 1}, {"watch": "eval_loss_epoch"}])
def test_a_metric_to_watch_that_will_not_exist_is_told_before_training(
    policy: dict[str, Any],
) -> None:
    spec = iris(folder="never", checkpoint=policy)
    del spec["dataset"]["samples"]["validation"]
    spec["dataset"]["samples"]["test"] = 0.4
    with pytest.raises(ProblemsError, match="names no validation part") as caught:
        Experiment.from_dict(spec).train()
    (problem,) = caught.value.problems
    assert problem.path == ("run", "checkpoint", "watch")
    assert "train_loss_epoch" in problem.message
    assert not Path("never").exists()
    spec["run"]["checkpoint"] = {"every_epochs": 1, "keep_latest": 3}
    Experiment.from_dict(spec).train()
    assert len(checkpoints_of("never")) == 3


def test_saving_callbacks_write_below_the_run_folder(tmp_path: Path) -> None:
    kinds = [
        {"type": "save_best_model", "save_path": "models/best.pt"},
        {"type": "save_training_state", "save_dir": str(tmp_path / "states")},
    ]
    Experiment.from_dict(iris(folder="mine", callbacks=kinds)).train()
    assert Path("mine/models/best.pt").is_file()
    assert (tmp_path / "states/final").is_dir()
    assert {path.name for path in Path().iterdir()} == {"mine", "states"}


class StopAfter(TrainerCallback):
    """Stops the program in the middle of the second epoch."""

    def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
        if trainer.progress.step == 8:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_stopped_run_goes_on_to_the_same_results() -> None:
    whole = Experiment.from_dict(iris(folder="whole")).train()
    spec = iris(folder="cut")
    with pytest.raises(RunInterrupted) as caught:
        Experiment.from_dict(spec).train(callbacks=[StopAfter()])
    assert caught.value.checkpoint == Path("cut/checkpoints/step-00000009")
    with pytest.raises(ConfigurationError, match="run.folder: cut holds a run that is stopped"):
        Experiment.from_dict(spec).train()
    resumed = Experiment.from_dict(spec).train(resume=True)
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["history"] == whole["history"]
    again = Experiment.from_dict(spec).train(resume=True)
    assert again["metrics"] == whole["metrics"]


@pytest.mark.slow
def test_the_example_reaches_97_percent() -> None:
    results = Experiment.from_yaml(EXAMPLE).train()
    assert results["metrics"]["test_accuracy"] >= 0.97


def test_registered_models_run_in_the_mode_auto_and_own_ones_eagerly() -> None:
    watch = Watch()
    experiment = Experiment.from_dict(iris())
    experiment.train(callbacks=[watch])
    assert experiment.to_dict()["run"]["step_mode"] == "auto"
    report = watch.trainer.step_report
    assert report is not None
    assert (report.asked, report.choice) == ("auto", "eager")
    assert "too few steps are left" in report.reason
    assert Experiment.from_dict(iris(step_mode="compile")).spec.run.step_mode == "compile"
    own = iris()
    own["model"]["model"] = f"{__name__}:OwnModel"
    assert Experiment.from_dict(own).spec.run.step_mode == "eager"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_run_goes_on_in_the_mode_that_it_began_in() -> None:
    """As one does that began when eager was the default."""
    whole = Experiment.from_dict(iris(folder="whole", step_mode="eager")).train()
    with pytest.raises(RunInterrupted):
        Experiment.from_dict(iris(folder="cut", step_mode="eager")).train(callbacks=[StopAfter()])
    resumed = Experiment.from_dict(iris(folder="cut"))
    results = resumed.train(resume=True)
    assert resumed.spec.run.step_mode == "eager"
    assert results["fingerprint"] == whole["fingerprint"]


def test_secrets_inside_of_values_are_not_told() -> None:
    """Of a tracker's arguments in a mistake, in an override, and in the command to go on with."""
    tracker = {"type": "comet_ml", "api_key": "hunter2"}
    for trackers in (tracker, [[tracker]]):
        declared = {"dataset": "iris", "model": "mlp", "tracking": {"trackers": trackers}}
        with pytest.raises(ProblemsError) as caught:
            Experiment.from_dict(declared)
        assert "'api_key': '***'" in str(caught.value)
    with pytest.raises(ProblemsError) as caught:
        apply_overrides(ConfigSource({"a": 1}), ["a.api_key=hunter2"])
    assert "a.api_key=***: " in str(caught.value)
    override = "tracking.trackers=[{type: comet_ml, api_key: hunter2}]"
    command = resuming_command("run.yaml", [override, "a=.nan", "a.token=12"], {})
    assert command.endswith("--set 'tracking.trackers=***' --set a=.nan --set 'a.token=***'")

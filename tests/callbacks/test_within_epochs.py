"""Evaluation within epochs, limits, averaged weights, metrics, and moving modules."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same, tiny_data, tiny_trainer, weights
from torch import nn

from loopwright.callbacks import (
    ConvertSyncBatchNormCallback,
    LimitBatchesCallback,
    LimitEvalStepsCallback,
    LogMetricsCallback,
    MetricsCallback,
    ModelEmaCallback,
    MoveModulesToDeviceCallback,
    PrintMetricsCallback,
    PrintProgressCallback,
    StepBasedEvaluationCallback,
    TrainerCallback,
    get_default_callbacks,
)
from loopwright.history import InMemoryRunHistory
from loopwright.trainer import DEFAULT_CALLBACKS


class Evaluations(TrainerCallback):
    """Writes down the batches, the step and the metrics of each evaluation."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.batches = 0

    def on_eval_step_end(self, trainer: Any, **kwargs: Any) -> None:
        self.batches += 1

    def on_eval_epoch_end(self, trainer: Any, is_intermediate: bool, **kwargs: Any) -> None:
        names = frozenset(trainer.run_history.get_metric_names())
        self.found.append((trainer.progress.step, self.batches, is_intermediate, names))
        self.batches = 0


def test_evaluation_every_n_steps_leaves_no_metric_behind() -> None:
    """P-100."""
    recorder = Evaluations()
    trainer = tiny_trainer(callbacks=[recorder, StepBasedEvaluationCallback(2)])
    trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=2)
    assert [(step, within) for step, _, within, _ in recorder.found] == [
        (2, True), (4, True), (6, False), (8, True), (10, True), (12, False),
    ]  # fmt: skip
    assert all(
        "intermediate_eval_loss" in names for _, _, within, names in recorder.found if within
    )
    assert trainer.run_history.get_metric_names() == {"train_loss_epoch", "eval_loss_epoch"}
    assert len(trainer.run_history.get_metric_values("eval_loss_epoch")) == 2
    plain = tiny_trainer()
    plain.train(tiny_data(), 2, per_device_batch_size=2)
    assert same(weights(plain), weights(trainer))


def test_the_history_is_not_written_again() -> None:
    """A history that sends its values elsewhere gets each one once."""
    sent = []

    class Sending(InMemoryRunHistory):
        def update_metric(self, metric_name: str, metric_value: Any) -> None:
            sent.append(metric_name)
            super().update_metric(metric_name, metric_value)

    trainer = tiny_trainer(callbacks=[StepBasedEvaluationCallback(2)], run_history=Sending())
    trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=2)
    assert sent.count("train_loss_epoch") == 2
    assert sent.count("eval_loss_epoch") == 2


def test_metrics_recorded_within_an_epoch_are_taken_back_even_when_interrupted() -> None:
    class Interrupting(TrainerCallback):
        def on_eval_epoch_end(self, trainer: Any, is_intermediate: bool, **kwargs: Any) -> None:
            trainer.run_history.update_metric("accuracy", 1.0)
            if trainer.progress.step == 8:
                raise KeyboardInterrupt

    trainer = tiny_trainer(callbacks=[Interrupting, StepBasedEvaluationCallback(2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=2)
    history = trainer.run_history
    assert {name: len(history.get_metric_values(name)) for name in history.get_metric_names()} == {
        "train_loss_epoch": 1,
        "eval_loss_epoch": 1,
        "accuracy": 1,
    }


def test_evaluation_within_an_epoch_needs_data() -> None:
    with pytest.raises(ValueError, match="needs an eval_dataset"):
        tiny_trainer(callbacks=[StepBasedEvaluationCallback(1)]).train(tiny_data(), 1)
    with pytest.raises(ValueError, match="eval_every_n_steps is 0"):
        StepBasedEvaluationCallback(0)


@pytest.mark.parametrize("intermediate_only", [True, False])
def test_limits_on_the_steps_of_evaluations(intermediate_only: bool) -> None:
    recorder = Evaluations()
    limit = LimitEvalStepsCallback(2, limit_intermediate_only=intermediate_only)
    trainer = tiny_trainer(callbacks=[limit, recorder, StepBasedEvaluationCallback(4)])
    trainer.train(tiny_data(), 1, tiny_data(), per_device_batch_size=2)
    assert [batches for _, batches, _, _ in recorder.found] == [2, 6 if intermediate_only else 2]


def test_a_limit_does_not_outlive_an_interrupted_evaluation() -> None:
    class Interrupting(TrainerCallback):
        armed = True

        def on_eval_step_end(self, trainer: Any, **kwargs: Any) -> None:
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt

    recorder = Evaluations()
    callbacks = [LimitEvalStepsCallback(1), recorder, Interrupting, StepBasedEvaluationCallback(4)]
    trainer = tiny_trainer(callbacks=callbacks)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(tiny_data(), 1, tiny_data(), per_device_batch_size=2)
    recorder.batches = 0
    trainer.evaluate(tiny_data(), 2)
    assert recorder.found[-1][1] == 6


@pytest.mark.parametrize("cls", [LimitBatchesCallback, LimitEvalStepsCallback])
def test_limits_are_positive(cls: Any) -> None:
    with pytest.raises(ValueError, match="is 0; expected 1 or more"):
        cls(0)


# ------------------------------------------------------------------- averaged weights


def test_averaged_weights_are_evaluated_and_saved(tmp_path: Path) -> None:
    """P-99."""
    path = tmp_path / "ema.pt"
    callback = ModelEmaCallback(decay=0.5, save_path=path)
    assert (callback.watch_metric, ModelEmaCallback().decay) == ("ema_model_eval_loss_epoch", 0.99)
    trainer = tiny_trainer(callbacks=[callback])
    trainer.train(tiny_data(), 3, tiny_data())
    history = trainer.run_history
    assert history.get_metric_names() == {
        "train_loss_epoch",
        "eval_loss_epoch",
        "ema_model_eval_loss_epoch",
    }
    by_hand, reference = [p.clone() for p in tiny_trainer().model.parameters()], tiny_trainer()
    for _ in range(3):
        reference.train(tiny_data(), 1, reset_run_history=False)
        by_hand = [0.5 * a + 0.5 * p.detach() for a, p in zip(by_hand, weights(reference))]  # noqa: B905
    assert same(weights(trainer), weights(reference))
    assert callback.ema_model is not None
    assert same(callback.ema_model.module.parameters(), [a.detach() for a in by_hand])
    inputs, targets = tiny_data()
    loss = nn.functional.cross_entropy(callback.ema_model.module(inputs), targets).item()
    assert history.get_latest_metric("ema_model_eval_loss_epoch") == pytest.approx(loss, rel=1e-6)
    assert "optimizer_state_dict" not in torch.load(path, weights_only=True)
    assert callback.best_metric == min(history.get_metric_values("ema_model_eval_loss_epoch"))
    assert history.metric_name_prefix == ""
    trainer.evaluate(tiny_data())
    assert history.get_metric_names() == {"evaluation_loss"}


def test_averaged_weights_can_be_saved_without_evaluation(tmp_path: Path) -> None:
    callback = ModelEmaCallback(evaluate_during_training=False, save_path=tmp_path / "ema.pt")
    trainer = tiny_trainer(callbacks=[callback])
    trainer.train(tiny_data(), 2)
    assert callback.ema_model is not None
    found = torch.load(tmp_path / "ema.pt", weights_only=True)["model_state_dict"]
    assert same(found.values(), callback.ema_model.module.state_dict().values())


# --------------------------------------------------------------------------- metrics


class Accuracy(nn.Module):
    """Has the interface of a torchmetrics metric."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.hits: list[float] = []

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        assert not outputs.requires_grad
        self.hits += (outputs.argmax(-1) == targets).float().tolist()

    def compute(self) -> torch.Tensor:
        return torch.tensor(self.hits).mean()


def test_metrics_are_over_all_samples() -> None:
    """Batches of 5, 5 and 2: a mean of means would be another number."""
    trainer = tiny_trainer(
        callbacks=[MetricsCallback({"accuracy": Accuracy()}, train_metrics=Accuracy())], lr=0.0
    )
    trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=5)
    inputs, targets = tiny_data()
    expected = (trainer.model(inputs).argmax(-1) == targets).float().mean().item()
    for name in ("accuracy", "train_accuracy"):
        values = trainer.run_history.get_metric_values(name)
        assert values == [pytest.approx(expected)] * 2
        assert all(type(value) is float for value in values)


def test_metrics_of_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs the extra 'metrics'")
    collection = torchmetrics.MetricCollection(
        {"accuracy": torchmetrics.Accuracy(task="multiclass", num_classes=3, average="micro")}
    )
    trainer = tiny_trainer(callbacks=[MetricsCallback(collection)])
    trainer.evaluate(tiny_data(), 5)
    inputs, targets = tiny_data()
    expected = (trainer.model(inputs).argmax(-1) == targets).float().mean().item()
    assert trainer.run_history.get_latest_metric("accuracy") == pytest.approx(expected)


def test_a_place_after_the_log_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="comes after LogMetricsCallback"):
        tiny_trainer(callbacks=[LogMetricsCallback, MetricsCallback(Accuracy())])
    metric = Accuracy()
    with pytest.raises(ValueError, match="share an instance"):
        MetricsCallback(metric, train_metrics=metric)


# ------------------------------------------------------------------ printing and moving


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines up to their colons, without advice."""
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line]
    return [line for line in lines if line not in ("Tip", "Bottleneck")]


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """P-26, P-97: names with "train" after training epochs, the others after evaluation."""
    assert PrintMetricsCallback is LogMetricsCallback
    trainer = tiny_trainer(callbacks=[PrintProgressCallback, PrintMetricsCallback])
    trainer.train(tiny_data(), 1, tiny_data())
    assert printed(capsys) == [
        "Starting training run",
        "Starting epoch 1",
        "train_loss_epoch",
        "Starting eval epoch",
        "eval_loss_epoch",
        "Finishing training run",
    ]
    trainer.evaluate(tiny_data())
    assert printed(capsys) == [
        "Starting evaluation run",
        "Starting eval epoch",
        "evaluation_loss",
        "Finishing evaluation run",
    ]


def test_metrics_can_be_sent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[dict[str, Any]] = []

    class Sending(LogMetricsCallback):
        def log_metrics(self, trainer: Any, metrics: dict[str, Any]) -> None:
            sent.append(metrics)

    tiny_trainer(callbacks=[Sending]).train(tiny_data(), 1, tiny_data())
    assert [set(metrics) for metrics in sent] == [{"train_loss_epoch"}, {"eval_loss_epoch"}]
    assert capsys.readouterr().out == ""


def test_modules_of_the_trainer_are_moved_but_not_the_model() -> None:
    """P-27: on the meta device, which every machine has."""
    trainer = tiny_trainer(callbacks=[MoveModulesToDeviceCallback])
    trainer.metrics = nn.Linear(1, 1)
    trainer.device = torch.device("meta")
    for callback in trainer.callback_handler:
        callback.on_training_run_start(trainer)
    assert trainer.metrics.weight.device.type == "meta"
    assert next(trainer.model.parameters()).device.type == "cpu"


def test_batch_norm_is_converted_for_several_processes_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    trainer = tiny_trainer(model=model, callbacks=[ConvertSyncBatchNormCallback])
    trainer.train(tiny_data(), 1)
    assert type(trainer.model[1]) is nn.BatchNorm1d


def test_the_default_callbacks_without_the_bar() -> None:
    assert get_default_callbacks() == DEFAULT_CALLBACKS
    names = [callback.__name__ for callback in get_default_callbacks(progress_bar=False)]
    assert names == [c.__name__ for c in DEFAULT_CALLBACKS if c.__name__ != "ProgressBarCallback"]


def test_the_bar_of_a_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(callbacks=get_default_callbacks())
    trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["train", "eval"] * 2
    assert all("3/3" in line and "loss" in line for line in lines)

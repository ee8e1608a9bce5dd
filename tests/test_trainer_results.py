"""What a run records and returns, row by row of what is documented."""

from typing import Any

import pytest
import torch
from tiny import MapData, Stream, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn
from torch.utils.data import default_collate

import loopwright
from loopwright.callbacks import LogMetricsCallback
from loopwright.errors import NotSupportedError
from loopwright.history import InMemoryRunHistory
from loopwright.trainer import DEFAULT_CALLBACKS, Trainer


def test_what_is_recorded() -> None:
    """P-24, P-25, P-45, P-46, P-51."""
    trainer = tiny_trainer()
    trainer.train(tiny_data(), 2)
    assert trainer.run_history.get_metric_names() == {"train_loss_epoch"}
    trainer.train(tiny_data(), 3, tiny_data())
    assert trainer.run_history.get_metric_names() == {"train_loss_epoch", "eval_loss_epoch"}
    assert len(trainer.run_history.get_metric_values("eval_loss_epoch")) == 3
    trainer.evaluate(tiny_data())
    assert trainer.run_history.get_metric_names() == {"evaluation_loss"}


def test_the_history_can_be_kept() -> None:
    """P-49, P-84: and epochs go on, in their own order of data."""
    once, twice = tiny_trainer(), tiny_trainer()
    once.train(tiny_data(), 5)
    twice.train(tiny_data(), 2)
    assert twice.run_history.current_epoch == 3
    twice.train(tiny_data(), 3, reset_run_history=False)
    assert twice.run_history.current_epoch == 6
    assert same(weights(once), weights(twice))
    assert once.run_history.get_metric_values("train_loss_epoch") == (
        twice.run_history.get_metric_values("train_loss_epoch")
    )
    twice.train(tiny_data(), 1)
    assert len(twice.run_history.get_metric_values("train_loss_epoch")) == 1


def test_any_history_can_be_passed() -> None:
    """P-86."""

    class Counting(InMemoryRunHistory):
        updates = 0

        def update_metric(self, metric_name: str, metric_value: Any) -> None:
            self.updates += 1
            super().update_metric(metric_name, metric_value)

    history = Counting()
    trainer = tiny_trainer(run_history=history)
    trainer.train(tiny_data(), 2, tiny_data())
    assert trainer.run_history is history
    assert history.updates == 4


def test_a_subclass_with_metrics() -> None:
    """P-15, P-27 to P-30: the documented example, with a metric of our own."""

    class Accuracy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hits: list[bool] = []

        def update(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
            self.hits += (predictions == targets).tolist()

    class TrainerWithMetrics(Trainer):
        def __init__(self, num_classes: int, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.num_classes, self.metrics = num_classes, Accuracy()

        def calculate_eval_batch_loss(self, batch: Any) -> Any:
            batch_output = super().calculate_eval_batch_loss(batch)
            self.metrics.update(batch_output["model_outputs"].argmax(dim=-1), batch[1])
            return batch_output

        def eval_epoch_end(self) -> None:
            accuracy = torch.tensor(self.metrics.hits).float().mean()
            self.run_history.update_metric("accuracy", accuracy.cpu())
            self.metrics.hits = []

    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    printed: list[Any] = []
    trainer = TrainerWithMetrics(3, model, nn.CrossEntropyLoss(), optimizer)
    trainer.print = lambda *args: printed.extend(args)  # type: ignore[method-assign]
    trainer.train(tiny_data(), 2, tiny_data(), per_device_batch_size=5)
    inputs, targets = tiny_data()
    expected = (model(inputs).argmax(-1) == targets).float().mean()
    assert trainer.run_history.get_latest_metric("accuracy") == pytest.approx(expected.item())
    assert any("accuracy" in str(line) for line in printed)


def test_extra_outputs_reach_callbacks_and_a_missing_size_is_named() -> None:
    """P-61."""

    class Extra(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            return {**super().calculate_train_batch_loss(batch), "extra": len(batch[0])}

    class Seeing(LogMetricsCallback):
        seen: list[int] = []  # noqa: RUF012

        def on_train_step_end(self, trainer: Any, batch_output: Any, **kwargs: Any) -> None:
            self.seen.append(batch_output["extra"])

    tiny_trainer(Extra, callbacks=[Seeing]).train(tiny_data(10), 1, per_device_batch_size=4)
    assert Seeing.seen == [4, 4, 2]

    class Sizeless(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            output = super().calculate_train_batch_loss(batch)
            return {"loss": output["loss"], "model_outputs": output["model_outputs"]}

    with pytest.raises((KeyError, ValueError), match="batch_size"):
        tiny_trainer(Sizeless).train(tiny_data(), 1)


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_gradient_values_are_clipped(limit: float) -> None:
    """P-57: the value clip reaches every entry, once per update, on the whole gradient."""
    found: list[float] = []

    class Clipped(Trainer):
        def optimizer_step(self) -> None:
            found.append(max(p.grad.abs().max().item() for p in self.model.parameters()))
            super().optimizer_step()

    trainer = tiny_trainer(Clipped)
    trainer.train(tiny_data(), 2, gradient_clip_value=limit, gradient_accumulation_steps=2)
    assert max(found) == pytest.approx(limit)


def test_collate_fn_goes_to_both_loaders() -> None:
    """P-58."""
    sizes: list[int] = []

    def collate(samples: list[Any]) -> Any:
        sizes.append(len(samples))
        return default_collate(samples)

    options = {"num_workers": 0}
    trainer = tiny_trainer()
    trainer.train(
        MapData(10),
        1,
        MapData(6),
        per_device_batch_size=5,
        collate_fn=collate,
        train_dataloader_kwargs=options,
        eval_dataloader_kwargs=options,
    )
    assert sizes == [5, 5, 5, 1]


def test_loader_options_win_over_the_batch_size() -> None:
    """P-59, P-79."""
    trainer = tiny_trainer()
    trainer.train(
        tiny_data(),
        1,
        tiny_data(),
        per_device_batch_size=5,
        gradient_accumulation_steps=2,
        train_dataloader_kwargs={"batch_size": 3, "sampler": range(6)},
        eval_dataloader_kwargs={"batch_size": 6},
    )
    config = trainer.run_config
    assert trainer.progress.samples == 6
    assert config.train_per_device_batch_size == 3
    assert config.train_total_batch_size == 6
    assert config.eval_per_device_batch_size == config.eval_total_batch_size == 6
    assert config.num_update_steps_per_epoch == 1
    assert config.to_dict()["train_dl_kwargs"]["sampler"] == range(6)  # P-80
    with pytest.raises(AttributeError):
        config.num_epochs = 2


def test_modes_of_the_model() -> None:
    """P-64."""
    seen = []

    class Seeing(Trainer):
        def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
            seen.append(("train", self.model.training, torch.is_grad_enabled()))
            return super().calculate_train_batch_loss(batch)

        def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
            seen.append(("eval", self.model.training, torch.is_grad_enabled()))
            return super().calculate_eval_batch_loss(batch)

    tiny_trainer(Seeing).train(tiny_data(), 2, tiny_data(), per_device_batch_size=12)
    assert seen == [("train", True, True), ("eval", False, False)] * 2


# --------------------------------------------------------------------------- the rest


def test_prediction() -> None:
    model = tiny_model(dropout=0.5)
    trainer = tiny_trainer(model=model)
    inputs, targets = tiny_data(10)
    with torch.no_grad():
        expected = model.eval()(inputs)
    model.train()
    for data in (inputs, (inputs, targets), MapData(10), Stream(10)):
        found = trainer.predict(data, 4)
        assert torch.allclose(found, expected, atol=1e-6)
        assert not found.requires_grad
        assert model.training
    streamed = list(trainer.predict(inputs, 4, stream=True))
    assert [len(part) for part in streamed] == [4, 4, 2]
    assert torch.allclose(torch.cat(streamed), expected, atol=1e-6)


def test_a_stream_of_predictions_leaves_the_callers_draws_and_modes_alone() -> None:
    trainer = tiny_trainer(model=tiny_model(dropout=0.5))
    draws = []
    for _ in trainer.predict(tiny_data()[0], 4, stream=True):
        draws.append(torch.rand(1).item())
        assert trainer.model.training
    draws.append(torch.rand(1).item())
    assert len(set(draws)) == 4


def test_model_gather_and_print(capsys: pytest.CaptureFixture[str]) -> None:
    """P-65 to P-68, in one process."""
    trainer = tiny_trainer(device="cpu")
    model = trainer.model
    trainer.train(tiny_data(), 1)
    assert trainer.model is model is trainer.get_model()
    assert trainer.get_model(keep_torch_compile=False) is model
    assert trainer.device == torch.device("cpu")
    rows = torch.tensor([[1, 2], [0, 0]])
    assert trainer.gather(rows) is rows
    assert trainer.gather(rows, padding_value=0).tolist() == [[1, 2]]
    trainer.print("once", "only")
    assert capsys.readouterr().out == "once only\n"


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NotSupportedError, match="2 processes.*torchrun"):
        tiny_trainer()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"precision": "fp8"}, ValueError),
        ({"step_mode": "fast"}, ValueError),
        ({"checkpoint": "latest"}, TypeError),
        ({"device": "cuda:99"}, ValueError),
    ],
    ids=str,
)
def test_settings_that_are_not_there_are_refused(options: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        tiny_trainer(**options)


def test_fp16_trains_on_a_cpu() -> None:
    trainer = tiny_trainer(precision="fp16")
    before = weights(trainer)
    trainer.train(tiny_data(), 2, gradient_accumulation_steps=2, gradient_clip_norm=1.0)
    assert not same(before, weights(trainer))
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_deterministic_holds_during_the_run_only() -> None:
    seen = []

    class Seeing(Trainer):
        def train_epoch_start(self) -> None:
            super().train_epoch_start()
            seen.append(torch.are_deterministic_algorithms_enabled())

    tiny_trainer(Seeing, deterministic=True).train(tiny_data(), 1)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_nothing_is_written_without_a_run_folder(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = tiny_trainer(callbacks=DEFAULT_CALLBACKS)
    trainer.train(tiny_data(), 1, tiny_data())
    trainer.evaluate(tiny_data())
    assert list(tmp_path.iterdir()) == []


def test_the_launcher_and_the_seed_are_in_the_face() -> None:
    """P-106."""
    assert loopwright.notebook_launcher(lambda a: a + 1, (1,)) == 2
    with pytest.raises(NotSupportedError):
        loopwright.notebook_launcher(print, num_processes=2)
    assert callable(loopwright.set_seed)

"""The trainer of a project, made of `trainer_config`."""

import inspect
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from loopwright import project
from loopwright.errors import NotSupportedError, RunInterrupted
from loopwright.events import TrainerCallback
from loopwright.history import history_state
from loopwright.trainer import Trainer as Loop

from .tiny_project import data_module, module

CPU: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def quiet(**config: Any) -> project.Trainer:
    return project.Trainer(**CPU, enable_checkpointing=False, **config)


def test_D_45_the_keys_and_their_defaults() -> None:
    found = inspect.signature(project.Trainer).parameters
    assert {name: p.default for name, p in found.items()} == project.TRAINER_CONFIG
    documented = {
        "max_epochs": 1,
        "enable_checkpointing": True,
        "enable_progress_bar": True,
        "log_every_n_steps": 20,
        "num_sanity_val_steps": 0,
    }
    keys = {"accelerator", "devices", "strategy", "num_processes", "default_root_dir"}
    assert documented.items() <= project.TRAINER_CONFIG.items()
    assert keys | {"callbacks", "logger"} <= project.TRAINER_CONFIG.keys()


def test_D_45_num_processes_works_and_says_what_it_is_called_now() -> None:
    with pytest.warns(DeprecationWarning, match="num_processes=1 is the older name of devices=1"):
        quiet(num_processes=1)
    with (
        pytest.warns(DeprecationWarning, match="devices=4"),
        pytest.raises(NotSupportedError, match="devices is 4; this version trains on one"),
    ):
        quiet(num_processes=4)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"strategy": "ddp"}, NotSupportedError, "strategy is 'ddp'"),
        ({"devices": [0, 1]}, NotSupportedError, r"devices is \[0, 1\]"),
        ({"accelerator": "tpu"}, ValueError, "accelerator is 'tpu'; expected one of auto, gpu"),
        ({"log_every_n_steps": 0}, ValueError, "log_every_n_steps is 0"),
    ],
)
def test_what_cannot_be_is_refused(config: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        project.Trainer(**config)


@pytest.mark.parametrize("accelerator", ["auto", "gpu"])
def test_the_device_of_a_list_is_the_one_that_is_used(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert project.Trainer(accelerator=accelerator, devices=[3]).device == "cuda:3"


def test_D_31_and_D_32_fit_gives_the_weights_of_plain_pytorch() -> None:
    """The documented flow; twenty lines of plain PyTorch over the same batches agree to the bit."""
    trainer_config = {"max_epochs": 3, **CPU, "enable_checkpointing": False}
    model, holder = module(), data_module()
    plain = module()
    trainer = project.Trainer(**trainer_config)
    trainer.fit(model, holder)

    optimizer = plain.configure_optimizers()
    loader = holder.train_dataloader()
    scheduler = plain.configure_scheduler(optimizer, 3 * len(loader))
    for epoch in (1, 2, 3):
        loader.epoch = epoch
        for inputs, targets in loader:
            nn.functional.cross_entropy(plain(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name]), name


def test_D_73_losses_and_metrics_are_logged_by_part() -> None:
    trainer, model = quiet(max_epochs=2), module()
    trainer.fit(model, data_module())
    assert isinstance(trainer.loop, Loop)
    history = trainer.loop.run_history
    names = {f"{part}_{name}" for part in ("train", "val") for name in ("loss", "f1", "accuracy")}
    assert names <= set(history.get_metric_names())
    assert len(list(history.get_metric_values("val_f1"))) == 2
    results = trainer.test(model, data_module())
    assert {"test_loss", "test_f1", "test_accuracy", "test_confusion_matrix"} <= results.keys()


def test_D_50_and_D_49_test_gives_what_the_whole_set_gives_at_once() -> None:
    model, holder = module(), data_module()
    results = quiet().test(model, holder)
    inputs, targets = holder.test_set.tensors
    with torch.no_grad():
        outputs = model(inputs)
    right = float((outputs.argmax(1) == targets).float().mean())
    assert results["test_accuracy"] == pytest.approx(right, abs=1e-7)
    loss = float(nn.functional.cross_entropy(outputs, targets))
    assert results["test_loss"] == pytest.approx(loss, rel=1e-6)
    assert sum(results["test_confusion_matrix"].values()) == 3 * len(targets)


def test_predict_gives_outputs_in_order() -> None:
    model, holder = module(), data_module()
    model.train()
    found = quiet().predict(model, holder)
    assert torch.allclose(found, model(holder.test_set.features), atol=1e-6)
    assert not found.requires_grad
    assert model.training


def test_D_35_and_D_38_the_best_model_and_the_last_are_kept(tmp_path: Path) -> None:
    keeps = project.ModelCheckpoint(save_top_k=2)
    trainer = project.Trainer(
        **CPU, max_epochs=5, callbacks=[keeps], default_root_dir=tmp_path / "run"
    )
    model = module()
    trainer.fit(model, data_module())
    files = {path.name for path in (tmp_path / "run").glob("*.pt")}
    assert len(files) == 3
    assert "last.pt" in files
    assert trainer.loop is not None
    losses = list(trainer.loop.run_history.get_metric_values("val_loss"))
    best = min(losses)
    assert keeps.best_model_score == best
    assert keeps.best_model_path is not None
    assert keeps.best_model_path.name == f"epoch={losses.index(best) + 1}-val_loss={best:.4f}.pt"
    assert keeps.best_model_path.name in files
    other = module()
    project.load_weights(other, tmp_path / "run" / "last.pt")
    assert torch.equal(other.network.weight, model.network.weight)
    project.load_weights(other, keeps.best_model_path)
    found = quiet().test(other, _validating(data_module()))
    assert found["test_loss"] == pytest.approx(best, rel=1e-6)


def _validating(holder: project.DataModule) -> project.DataModule:
    return project.DataModule(holder.model_config, test_set=holder.val_set)


def test_more_models_can_be_kept_and_checkpointing_can_be_off(tmp_path: Path) -> None:
    keeps = project.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_last=False)
    project.Trainer(**CPU, max_epochs=3, callbacks=keeps).fit(module(), data_module())
    assert {path.name for path in tmp_path.iterdir()} == {f"epoch={n}.pt" for n in (1, 2, 3)}
    trainer = project.Trainer(**CPU, callbacks=[keeps], enable_checkpointing=False)
    assert trainer.callbacks == []
    assert trainer.checkpoint_callback is None
    wrong = project.ModelCheckpoint(tmp_path, "{epoch}-{val_los}")
    with pytest.raises(ValueError, match="filename names 'val_los', which is not recorded"):
        project.Trainer(**CPU, callbacks=[wrong]).fit(module(), data_module())


@pytest.mark.parametrize("top", [1, 2, -1])
def test_models_of_one_name_do_not_take_each_others_place(tmp_path: Path, top: int) -> None:
    keeps = project.ModelCheckpoint(tmp_path, "best", save_top_k=top, save_last=False)
    trainer = project.Trainer(**CPU, max_epochs=4, callbacks=[keeps])
    trainer.fit(module(), data_module())
    assert len(list(tmp_path.iterdir())) == (4 if top < 0 else top)
    other = module()
    assert keeps.best_model_path is not None
    project.load_weights(other, keeps.best_model_path)
    found = quiet().test(other, _validating(data_module()))
    assert found["test_loss"] == pytest.approx(keeps.best_model_score, rel=1e-6)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_none_is_never_the_best(tmp_path: Path, mode: Any) -> None:
    """Whenever it comes; where nothing else was measured its model is kept."""

    class Measured(TrainerCallback):
        def on_training_run_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
            epoch = trainer.run_history.current_epoch
            trainer.run_history.update_metric("own", values[epoch - 1])

    nan = float("nan")
    for values, best, files in (
        ([nan, 2.0, nan, 1.0], {"min": 1.0, "max": 2.0}[mode], {2, 4}),
        ([2.0, 1.0, nan], {"min": 1.0, "max": 2.0}[mode], {1, 2}),
        ([nan, 1.0, nan], 1.0, {1, 2}),
    ):
        folder = tmp_path / str(values)
        keeps = project.ModelCheckpoint(
            folder, "{epoch}", monitor="own", mode=mode, save_top_k=2, save_last=False
        )
        callbacks = [Measured(), keeps]
        project.Trainer(**CPU, max_epochs=len(values), callbacks=callbacks).fit(
            module(), data_module()
        )
        assert keeps.best_model_score == best
        assert {path.name for path in folder.iterdir()} == {f"epoch={n}.pt" for n in files}


def test_models_are_found_and_replaced_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    def train(folder: Path, epochs: int, **options: Any) -> project.ModelCheckpoint:
        keeps = project.ModelCheckpoint(filename="{epoch}", monitor="train_loss")
        trainer = project.Trainer(
            **CPU,
            max_epochs=epochs,
            callbacks=[keeps, *options.pop("more", ())],
            default_root_dir=folder,
        )
        trainer.fit(module(), data_module(), **options)
        return keeps

    class Stop(TrainerCallback):
        def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
            if trainer.progress.epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted):
        train(tmp_path / "here", 3, more=[Stop()])
    assert (tmp_path / "here" / "epoch=1.pt").exists()
    (tmp_path / "here").rename(tmp_path / "there")
    keeps = train(tmp_path / "there", 3, resume="latest")
    assert [path.name for path in (tmp_path / "there").glob("epoch*")] == ["epoch=3.pt"]
    assert keeps.best_model_path == tmp_path / "there" / "epoch=3.pt"
    assert not (tmp_path / "here").exists()


def test_a_checkpoint_that_two_runs_share_writes_to_the_folder_of_each(tmp_path: Path) -> None:
    """A configuration holds one callback, and a program may train it several times."""
    keeps = project.ModelCheckpoint()
    for run in ("v1", "v2"):
        trainer = project.Trainer(**CPU, callbacks=[keeps], default_root_dir=tmp_path / run)
        trainer.fit(module(), data_module())
        assert keeps.best_model_path is not None
        assert keeps.best_model_path.parent == tmp_path / run
        assert keeps.last_model_path == tmp_path / run / "last.pt"


def test_D_39_early_stopping_ends_a_run_that_gets_worse() -> None:
    stops = project.EarlyStopping(patience=2)
    trainer = quiet(max_epochs=50, callbacks=[stops])
    trainer.fit(module(learning_rate=3.0), data_module())
    assert trainer.loop is not None
    assert len(list(trainer.loop.run_history.get_metric_values("val_loss"))) < 50
    assert trainer.loop.stop_reason is not None
    assert "val_loss" in trainer.loop.stop_reason


class Logger:
    """Keeps what loggers of Lightning are told."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, float], int | None]] = []
        self.is_saved = False

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.told.append((metrics, step))

    def save(self) -> None:
        self.is_saved = True


def test_a_logger_gets_losses_of_steps_and_metrics_of_epochs() -> None:
    logger = Logger()
    quiet(max_epochs=2, logger=logger, log_every_n_steps=2).fit(module(), data_module())
    steps = [step for metrics, step in logger.told if "train_loss_step" in metrics]
    assert steps == [2, 4, 6, 8, 10]
    epochs = [step for metrics, step in logger.told if "val_loss" in metrics]
    assert epochs == [5, 10]
    assert logger.is_saved


def test_validation_is_tried_before_the_first_epoch() -> None:
    class Wrong(project.DataModule):
        def val_dataloader(self) -> Any:
            return DataLoader(self.val_set, collate_fn=lambda rows: ["no batch"])

    holder = data_module()
    wrong = Wrong(holder.model_config, holder.train_set, holder.val_set)
    trainer, model = quiet(num_sanity_val_steps=1), module()
    before = model.network.weight.clone()
    with pytest.raises(ValueError, match="unpack"):
        trainer.fit(model, wrong)
    assert torch.equal(model.network.weight, before)


def test_a_loader_of_ones_own_is_used() -> None:
    class Own(project.DataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(self.train_set, batch_size=40)

    holder = data_module()
    trainer = quiet()
    trainer.fit(module(), Own(holder.model_config, holder.train_set, holder.val_set))
    assert trainer.loop is not None
    assert trainer.loop.progress.step == 2


def test_several_optimizers_are_updated_by_a_train_step_of_ones_own() -> None:
    class Two(type(module())):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            weight, bias = self.network.weight, self.network.bias
            return {
                "weight": project.Optimizers.SGD([weight], lr=0.1),
                "bias": project.Optimizers.SGD([bias], lr=0.0),
            }

        def configure_scheduler(self, optimizer: Any, num_training_steps: int) -> None:
            return None

        def train_step(self, batch: Any, update: Any) -> Any:
            output = self.calculate_loss(batch)
            update(output["loss"], "weight", retain_graph=True)
            update(self.calculate_loss(batch)["loss"], "bias")
            return output

    model = Two(module().model_config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = quiet()
    trainer.fit(model, data_module())
    assert not torch.equal(before["network.weight"], model.network.weight)
    assert torch.equal(before["network.bias"], model.network.bias)
    assert trainer.loop is not None
    assert trainer.loop.progress.step == 5


class Stop(TrainerCallback):
    """Sends the process a signal in the second epoch."""

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.progress.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_a_signal_ended_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Its metrics count the samples of the epoch that it was stopped in, too."""
    whole, stopped, resumed = module(), module(), module()
    config = {"max_epochs": 3, "enable_checkpointing": False, **CPU}
    unbroken = project.Trainer(**config)
    unbroken.fit(whole, data_module())
    config["default_root_dir"] = tmp_path / "v1"
    with pytest.raises(RunInterrupted):
        project.Trainer(**config, callbacks=Stop()).fit(stopped, data_module())
    assert not torch.equal(stopped.network.weight, whole.network.weight)
    trainer = project.Trainer(**config)
    trainer.fit(resumed, data_module(), resume="latest")
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert trainer.loop is not None
    assert unbroken.loop is not None
    assert history_state(trainer.loop.run_history) == history_state(unbroken.loop.run_history)


def test_samples_that_were_measured_go_to_the_cpu_where_they_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loopwright.project.metrics._MOST_BYTES", 50)
    metrics = module().make_metrics()
    for start in range(0, 20, 4):
        values = torch.arange(start, start + 4) % 3
        metrics.update(values, values)
    assert len(metrics._targets) < 5
    assert metrics.targets.tolist() == [n % 3 for n in range(20)]
    assert metrics.compute()["accuracy"] == 1.0

"""Checkpoints of the documented trainer: going on exactly, rebuilding a model, setting values."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import MapData, same, tiny_data, tiny_model, weights
from torch import nn

from loopwright.errors import CheckpointError
from loopwright.schedulers import DecayWhenAcc, Triangular
from loopwright.trainers import ClassificationTrainer
from loopwright.trainers.rebuilding import rebuild_model
from trainers.test_classification import (
    EVERYTHING,
    Leaves,
    Overridden,
    PlainLoop,
    _in_an_empty_folder,
    make,
    with_validation,
)

__all__ = ["_in_an_empty_folder"]  # a fixture, which holds for this file too

NOISY = {"train_dataset": MapData(26, noise=True), "num_workers": 0}


def histories(trainer: Any) -> list[Any]:
    names = ("loss", "val_loss", "acc")
    values = [getattr(trainer, f"get_{name}_history")() for name in names]
    return [None if part is None else part.tolist() for part in values]


def dropping(**options: Any) -> dict[str, Any]:
    return {"num_epochs": 3, "val_dataset": tiny_data(10)} | options


@pytest.mark.parametrize("kind", [ClassificationTrainer, Overridden, Leaves])
@pytest.mark.parametrize(
    "options",
    [
        {"save_every": 3, "train_dataset": tiny_data(26)},
        EVERYTHING | {"lr_scheduler": DecayWhenAcc(initial_lr=0.1, acc_thresh=0.0)},
        NOISY | {"save_every": 3, "lr_scheduler": Triangular(stepsize=4)},
    ],
    ids=["plain", "everything", "noisy"],
)
def test_going_on_in_the_middle_of_an_epoch(kind: Any, options: dict[str, Any]) -> None:
    """L-35, L-52, L-75, L-84: the same bits as the run that never stopped, history included."""
    torch.manual_seed(7)
    whole = make(kind, tiny_model(dropout=0.5), **dropping(**options))
    whole.train()
    names = [path for path in Path("checkpoint").iterdir() if "iter" in path.name]
    inside = [path for path in names if "epoch_1" in path.name]
    assert inside
    for path in (inside[0], inside[-1]):
        torch.manual_seed(99)
        resumed = make(kind, tiny_model(dropout=0.5), **dropping(**options))
        resumed.load_checkpoint(path)
        assert resumed.cur_epoch == 1
        assert 0 < resumed.loss_iter < whole.loss_iter
        resumed.train()
        assert same(weights(whole), weights(resumed))
        assert histories(whole) == histories(resumed)
        assert whole.best_acc == resumed.best_acc


def test_the_batch_size_stays_within_an_epoch() -> None:
    trainer = make(save_every=1)
    trainer.train()
    trainer.load_checkpoint("checkpoint/ck_epoch_1_iter_5")
    trainer.set_batch_size(3)
    with pytest.raises(ValueError, match=r"in the middle|from the middle of an epoch with .*=4"):
        trainer.train()
    trainer.set_batch_size(4)
    trainer.train()
    trainer.set_num_epochs(3)
    trainer.set_batch_size(3)
    trainer.train()
    assert trainer.cur_epoch == 3


def test_going_on_after_an_epoch_of_plain_code() -> None:
    """L-04, L-35: exact from the end of an epoch."""
    whole = make(PlainLoop, tiny_model(dropout=0.5), num_epochs=3)
    whole.train()
    resumed = make(PlainLoop, tiny_model(dropout=0.5), num_epochs=3)
    resumed.load_checkpoint("checkpoint/ck_epoch_1_iter_6.ckpt")
    assert resumed.get_cur_epoch() == 2
    resumed.train()
    assert same(weights(whole), weights(resumed))


def test_extending_a_loaded_run(tmp_path: Path) -> None:
    """L-79, L-82, L-83, L-84."""
    source = with_validation(num_epochs=2, print_every=3, save_every=7, weight_decay=0.01)
    source.train()
    source.save_checkpoint(tmp_path / "end.pkl")
    source.save_history(tmp_path / "end_history.pkl")
    target = ClassificationTrainer(
        tiny_model(), train_dataset=tiny_data(12), val_dataset=tiny_data(10), verbose=False
    )
    target.load_checkpoint(tmp_path / "end.pkl")
    target.load_history(tmp_path / "end_history.pkl")
    for name in ("num_epochs", "learning_rate", "weight_decay", "print_every", "save_every"):
        assert getattr(target, name) == getattr(source, name)
    assert histories(source) == histories(target)
    assert (target.batch_size, target.val_batch_size) == (4, 4)
    target.set_num_epochs(3)
    target.train()
    assert target.cur_epoch == 3
    source.set_num_epochs(3)
    source.train()
    assert same(weights(source), weights(target))
    assert histories(source) == histories(target)


def test_a_checkpoint_before_the_first_step(tmp_path: Path) -> None:
    trainer = make()
    trainer.save_checkpoint(tmp_path / "start")
    trainer.train()
    other = make(model=nn.Sequential(*tiny_model().children()))
    other.load_checkpoint(tmp_path / "start")
    other.train()
    assert same(weights(trainer), weights(other))


def test_what_is_set_after_loading_counts(tmp_path: Path) -> None:
    trainer = make(optim_function="SGD")
    trainer.train()
    trainer.save_checkpoint(tmp_path / "end")
    trainer.load_checkpoint(tmp_path / "end")
    trainer.set_learning_rate(0.0)
    trainer.set_num_epochs(3)
    with torch.no_grad():
        next(trainer.model.parameters()).zero_()
    trainer.train()
    assert not next(trainer.model.parameters()).any()


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    """L-34, L-35, L-74, L-78."""
    trainer = make()
    trainer.train()
    path = trainer.save_checkpoint(tmp_path / "end.pkl")
    assert path == tmp_path / "end.ckpt"
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}
    tree = json.loads((path / "state.json").read_text())
    assert {"model", "optimizer", "trainer_params", "model_source"} <= set(tree)
    about = tree["model_source"]
    assert (about["model_name"], about["model_import_path"]) == (
        "Sequential",
        "torch.nn.modules.container",
    )
    assert list(tree["trainer_params"]) == [
        *("num_epochs", "learning_rate", "momentum", "weight_decay", "loss_function"),
        *("optim_function", "cur_epoch", "iter_per_epoch", "save_every", "print_every"),
        *("batch_size", "val_batch_size", "shuffle"),
    ]


def test_a_registered_model_is_rebuilt(tmp_path: Path) -> None:
    """L-29, L-30, L-75: by its name, from the checkpoint alone."""
    arguments = {"input_shape": [3], "classes": 3, "hidden": [4]}
    source = make(model="mlp", model_arguments=arguments)
    source.train()
    source.save_checkpoint(tmp_path / "end")
    target = ClassificationTrainer(verbose=False)
    target.load_checkpoint(tmp_path / "end")
    assert same(weights(source), weights(target))
    target.set_train_dataset(tiny_data(12))
    target.set_num_epochs(3)
    target.train()
    source.set_num_epochs(3)
    source.train()
    assert same(weights(source), weights(target))
    target.save_checkpoint(tmp_path / "again")
    ClassificationTrainer(verbose=False).load_checkpoint(tmp_path / "again")


class Net(nn.Module):
    """Is known by its class alone."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)


def test_a_class_is_given_and_never_imported(tmp_path: Path) -> None:
    """L-75: nothing is imported because a file names it."""
    source = make(model=Net(5), model_arguments={"width": 5})
    source.save_checkpoint(tmp_path / "net")
    target = ClassificationTrainer(verbose=False)
    with pytest.raises(CheckpointError, match=r"test_checkpoints:Net.*model_class="):
        target.load_checkpoint(tmp_path / "net")
    target.load_checkpoint(tmp_path / "net", model_class=Net)
    assert same(weights(source), weights(target))
    target = ClassificationTrainer(verbose=False)
    target.load_model_checkpoint(tmp_path / "net", model_class=Net)
    assert same(weights(source), weights(target))


def test_paths_in_a_file_are_no_names(tmp_path: Path) -> None:
    make(model=Net()).save_checkpoint(tmp_path / "net")
    tree_file = tmp_path / "net.ckpt" / "state.json"
    tree = json.loads(tree_file.read_text())
    tree["model_source"]["name"] = "os:system"
    tree_file.write_text(json.dumps(tree))
    manifest_file = tmp_path / "net.ckpt" / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    del manifest["files"]["state.json"]
    manifest_file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        ClassificationTrainer(verbose=False).load_checkpoint(tmp_path / "net")
    with pytest.raises(CheckpointError, match="'os:system', which is not registered"):
        rebuild_model(tree["model_source"], None, tmp_path)


def test_only_the_model_is_loaded(tmp_path: Path) -> None:
    """L-77."""
    source = make(num_epochs=3)
    source.train()
    source.save_checkpoint(tmp_path / "end")
    target = make(num_epochs=5, learning_rate=0.5)
    target.load_model_checkpoint(tmp_path / "end")
    assert same(weights(source), weights(target))
    assert (target.num_epochs, target.learning_rate, target.cur_epoch) == (5, 0.5, 0)
    assert not target.optimizer.state
    target.train()
    assert target.cur_epoch == 5


def test_a_misfit_leaves_the_trainer_as_it_was(tmp_path: Path) -> None:
    make(model=Net(5)).save_checkpoint(tmp_path / "net")
    target = make(num_epochs=7)
    before = weights(target)
    with pytest.raises(CheckpointError, match="the model of"):
        target.load_model_checkpoint(tmp_path / "net")
    assert same(before, weights(target))
    assert target.num_epochs == 7


def test_pickles_and_other_states_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(CheckpointError, match=r"old\.ckpt"):
        make().load_checkpoint(tmp_path / "old.pkl")
    make().trainer.save_training_state(tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint of a ClassificationTrainer"):
        make().load_checkpoint(tmp_path / "other")


def test_the_device_is_that_of_the_trainer(tmp_path: Path) -> None:
    """L-76."""
    source = make()
    source.train()
    source.save_checkpoint(tmp_path / "end")
    device = 0 if torch.cuda.is_available() else -1
    target = make(device_id=device)
    target.load_checkpoint(tmp_path / "end")
    expected = torch.device("cuda:0" if device == 0 else "cpu")
    assert {p.device for p in target.model.parameters()} == {expected}
    moments = [state["exp_avg"] for state in target.optimizer.state.values()]
    assert {moment.device for moment in moments} == {expected}


def test_trainer_params_are_set_and_loaders_made_anew() -> None:
    """L-78."""
    source = make(batch_size=3, shuffle=False, num_epochs=4, learning_rate=0.3)
    target = make()
    target.set_trainer_params(source.get_trainer_params())
    assert target.get_trainer_params() == source.get_trainer_params()
    assert len(target.train_loader) == 4
    assert target.loss_history.shape == (16,)
    params = source.get_trainer_params()
    params["shufle"] = params.pop("shuffle")
    with pytest.raises(ValueError, match=r"missing \['shuffle'\], unknown \['shufle'\]"):
        target.set_trainer_params(params)


def test_an_own_loss_stays_where_its_name_is_stored(tmp_path: Path) -> None:
    def own_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    source = make(loss_function=own_loss)
    source.save_checkpoint(tmp_path / "own")
    target = make(loss_function=own_loss)
    target.load_checkpoint(tmp_path / "own")
    assert target.criterion is own_loss
    with pytest.raises(ValueError, match="no loss 'own_loss'"):
        make().load_checkpoint(tmp_path / "own")


def test_learning_rate() -> None:
    """L-68."""
    trainer = make()
    trainer.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 7.0})
    assert trainer.get_learning_rate() == 0.05
    trainer.set_learning_rate(0.1)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.1, 7.0]
    trainer.set_learning_rate(0.2, param_zero=False)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.2, 0.2]


def test_momentum() -> None:
    """L-69."""
    sgd, adam, adagrad = (make(optim_function=name) for name in ("SGD", "Adam", "Adagrad"))
    assert [t.get_momentum() for t in (sgd, adam, adagrad)] == [0.5, 0.9, None]
    for trainer in (sgd, adam):
        trainer.set_momentum(0.7)
        assert trainer.get_momentum() == 0.7
    assert adam.optimizer.param_groups[0]["betas"] == (0.7, 0.999)
    with pytest.raises(ValueError, match="Adagrad has no momentum"):
        adagrad.set_momentum(0.7)


def test_setters_make_the_loaders_anew() -> None:
    """L-70."""
    trainer = ClassificationTrainer(tiny_model(), verbose=False, batch_size=4, num_epochs=2)
    trainer.set_train_dataset(tiny_data(12))
    assert trainer.train_loader is not None
    assert (len(trainer.train_loader), trainer.save_every) == (3, 2)
    trainer.set_batch_size(2)
    assert len(trainer.train_loader) == 6
    trainer.set_val_dataset(tiny_data(8))
    trainer.set_test_dataset(tiny_data(4))
    assert trainer.val_loader is not None
    assert trainer.test_loader is not None
    assert (len(trainer.val_loader), len(trainer.test_loader)) == (2, 1)
    trainer.train()
    assert (trainer.loss_iter, trainer.val_loss_iter, trainer.acc_iter) == (12, 4, 2)


def test_model_and_its_weights() -> None:
    """L-67."""
    trainer = make()
    assert trainer.get_model() is trainer.model
    assert list(trainer.get_model_params()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert ClassificationTrainer().get_model_params() is None


def test_freezing() -> None:
    """L-73: from the input side up to a parameter."""
    trainer = make()
    trainer.freeze_to(1)
    assert [p.requires_grad for p in trainer.model.parameters()] == [False, False, True, True]
    before = weights(trainer)
    trainer.train()
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True)]
    assert moved == [False, False, True, True]
    trainer.unfreeze_to(0)
    assert [p.requires_grad for p in trainer.model.parameters()] == [True, False, True, True]


def test_a_run_with_a_folder_goes_on_in_it(tmp_path: Path) -> None:
    """The log, report and checkpoints of a run folder come with run_dir."""
    trainer = with_validation(run_dir=str(tmp_path / "run"))
    trainer.train()
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("accuracy") == 2
    again = with_validation(run_dir=str(tmp_path / "run"))
    again.train(resume="latest")
    assert same(weights(trainer), weights(again))

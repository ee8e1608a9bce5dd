"""Models on disk: names, safe formats, reading back, and which are kept (A-61 to A-64, A-69)."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import adam, make_loop
from tiny import tiny_model

from loopwright.errors import CheckpointError
from loopwright.tracking import (
    LocalSubOptimalModelRemover,
    PyTorchLocalModelLoader,
    PyTorchLocalModelSaver,
    make_model_saver,
)
from tracking.models import Uploads, content

WHERE = ("project", "trial", "T")


@pytest.mark.parametrize(
    ("checkpoint", "epoch", "iteration", "expected"),
    [
        (False, None, None, "model/model_trial_T.pth"),
        (True, 0, None, "checkpoint_model/model_trial_T_E0.pth"),
        (True, 2, 17, "checkpoint_model/model_trial_T_E2_ITER17.pth"),
    ],
)
def test_a61_a62_the_names_of_models(
    checkpoint: bool, epoch: int | None, iteration: int | None, expected: str, tmp_path: Path
) -> None:
    uploads = Uploads()
    saver = PyTorchLocalModelSaver(tmp_path, checkpoint, uploader=uploads)
    name, path = saver.save_model(content(), *WHERE, epoch, iteration)
    assert path == f"{tmp_path}/project/trial_T/{expected}"
    assert name == Path(path).name
    assert uploads.files == {f"project/trial_T/{expected}": Path(path).read_bytes()}
    assert [file.name for file in Path(path).parent.iterdir()] == [name], "nothing left beside it"


def test_a63_a_model_of_a_loop_loads_with_weights_only(tmp_path: Path) -> None:
    loop = make_loop()
    loop.fit(num_epochs=1)
    saver = PyTorchLocalModelSaver(tmp_path)
    _, path = saver.save_model(loop.checkpoint_content({"lr": 0.05}), *WHERE)
    loaded = torch.load(path, weights_only=True)
    documented = {"model_state_dict", "optimizer_state_dict", "schedulers_state_dict"}
    assert documented | {"epoch", "iteration_idx", "hyperparams"} <= set(loaded)
    for name, value in loop.model.state_dict().items():
        assert torch.equal(loaded["model_state_dict"][name], value)


@pytest.mark.parametrize(
    "missing", ["model_state_dict", "optimizer_state_dict", "epoch", "hyperparams"]
)
def test_a64_a_model_lacks_nothing(missing: str, tmp_path: Path) -> None:
    incomplete = content()
    del incomplete[missing]
    with pytest.raises(ValueError, match=f"lacks {missing}"):
        PyTorchLocalModelSaver(tmp_path).save_model(incomplete, *WHERE)
    assert not list(tmp_path.iterdir())


def test_what_only_code_could_load_is_refused_by_name(tmp_path: Path) -> None:
    unsafe = content(hyperparams={"optimizer": {"factory": adam}})
    with pytest.raises(CheckpointError, match="hyperparams.optimizer.factory is a function"):
        PyTorchLocalModelSaver(tmp_path).save_model(unsafe, *WHERE)
    assert not list(tmp_path.rglob("*.pth"))


def test_a75_a_loaded_model_predicts_the_same(tmp_path: Path) -> None:
    saved = content()
    PyTorchLocalModelSaver(tmp_path).save_model(saved, *WHERE)
    loader = PyTorchLocalModelLoader(tmp_path)
    loader.load_model(*WHERE, model_save_dir="model")
    original, fresh = tiny_model(), tiny_model()
    original.load_state_dict(saved["model_state_dict"])
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    assert loader.init_model(fresh) is fresh
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fresh.eval()(inputs), original.eval()(inputs))
    optimizer = loader.init_optimizer(adam(fresh))
    state, expected = optimizer.state_dict(), saved["optimizer_state_dict"]
    assert state["param_groups"] == expected["param_groups"]
    assert torch.equal(state["state"][0]["exp_avg"], expected["state"][0]["exp_avg"])


def test_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    saver = PyTorchLocalModelSaver(tmp_path, checkpoint_model=True)
    for epoch, iteration in ((2, None), (10, 5), (9, None)):
        saver.save_model(content(epoch=epoch, iteration_idx=iteration), *WHERE, epoch, iteration)
    loader = PyTorchLocalModelLoader(tmp_path)
    assert loader.load_model(*WHERE)["epoch"] == 10
    saver.save_model(content(epoch=10, iteration_idx=None), *WHERE, 10)
    assert loader.load_model(*WHERE)["iteration_idx"] is None, "the end of an epoch is newer"
    assert loader.load_model(*WHERE, epoch_num=2)["epoch"] == 2
    with pytest.raises(FileNotFoundError, match=r"no model_trial_T_E3.pth .* model_trial_T_E10"):
        loader.load_model(*WHERE, epoch_num=3)


def test_files_that_execute_code_or_are_damaged_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch executed",)

    loader = PyTorchLocalModelLoader(tmp_path)
    path = tmp_path / "model.pth"
    torch.save(content(hyperparams=Evil()), path)
    with pytest.raises(CheckpointError, match="without executing code"):
        loader.load_model_from_path(path)
    assert not Path("executed").exists()
    torch.save(content(), path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(CheckpointError, match="damaged"):
        loader.load_model_from_path(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match="lacks model_state_dict"):
        loader.load_model_from_path(path)
    with pytest.raises(ValueError, match="Call load_model first"):
        loader.init_model(tiny_model())


def test_weights_of_a_wrapped_model_lose_their_prefix(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in tiny_model().state_dict().items()}
    PyTorchLocalModelSaver(tmp_path).save_model(content(model_state_dict=wrapped), *WHERE)
    loader = PyTorchLocalModelLoader(tmp_path)
    loader.load_model(*WHERE, "model")
    loader.init_model(tiny_model(), used_data_parallel=True)


def test_schedulers_are_restored_in_order(tmp_path: Path) -> None:
    PyTorchLocalModelSaver(tmp_path).save_model(content(), *WHERE)
    loader = PyTorchLocalModelLoader(tmp_path)
    loader.load_model(*WHERE, "model")

    def scheduler() -> Any:
        return torch.optim.lr_scheduler.StepLR(adam(tiny_model()), 1)

    given = scheduler()
    loader.init_scheduler([given])
    assert given.last_epoch == 3
    with pytest.raises(ValueError, match="1 saved schedulers and none in the loop"):
        loader.init_scheduler([])
    assert not loader.init_scheduler([], ignore_saved=True)
    with pytest.raises(ValueError, match="1 saved schedulers and 2 given"):
        loader.init_scheduler([given, scheduler()])
    assert loader.model_representation is not None
    loader.model_representation["schedulers_state_dict"] = []
    with pytest.raises(KeyError, match="1 schedulers and no saved states"):
        loader.init_scheduler([given])
    assert loader.init_scheduler([given], ignore_missing_saved=True) == [given]


def kept_after(values: list[float | None], metric: str, kept: int, tmp_path: Path) -> list[str]:
    """Save a model for each value, and return the names of those that are kept."""
    remover = LocalSubOptimalModelRemover(metric, kept)
    history: dict[str, list[float]] = {}
    for epoch, value in enumerate(values):
        if value is not None:
            history.setdefault(metric, []).append(value)
        path = tmp_path / f"E{epoch}"
        path.touch()
        remover.decide_if_remove_suboptimal_model(history, [str(path)])
        again = LocalSubOptimalModelRemover(metric, kept)
        again.load_state_dict(remover.state_dict())
        remover = again
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("loss", [3.0, 1.0, 2.0, 4.0], ["E1", "E2"]),
        ("val_loss", [1.0, 2.0, 3.0], ["E0", "E1"]),
        ("val_Accuracy", [0.3, 0.9, 0.1, 0.5], ["E1", "E3"]),
        ("loss", [float("nan"), 5.0, 6.0], ["E1", "E2"]),
        ("loss", [1.0, 1.0, 1.0], ["E1", "E2"]),
        ("loss", [None, 5.0, 6.0], ["E1", "E2"]),
    ],
)
def test_a69_the_best_models_are_kept(
    metric: str, values: list[float | None], expected: list[str], tmp_path: Path
) -> None:
    assert kept_after(values, metric, 2, tmp_path) == expected


def test_a69_only_files_it_was_told_of_are_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").touch()
    assert kept_after([2.0, 1.0], "loss", 1, tmp_path) == ["E1", "mine.pth"]
    LocalSubOptimalModelRemover.rm_suboptimal_model([str(tmp_path / "gone")])
    with pytest.raises(ValueError, match="expected 1 or more"):
        LocalSubOptimalModelRemover("loss", 0)


def test_a24_modes_that_name_no_cloud_stay_local(tmp_path: Path) -> None:
    for mode in (None, "local", "none", ""):
        assert make_model_saver(mode, "bucket", "", tmp_path).uploader is None

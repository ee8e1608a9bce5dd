"""What saves the models of a TrainLoop: retention over several processes, and ends that fail."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Recorder, loader, make_loop, state_of
from tiny import same

from loopwright import TrainLoopCheckpoint, TrainLoopEndSave
from loopwright.errors import RunInterrupted
from loopwright.loop_callbacks import ModelLoadContinueTraining
from loopwright.results import AbstractResultPackage
from loopwright.seed import set_seed

pytest.importorskip("matplotlib")
LOSSES = [5.0, 3.0, 4.0, 6.0, 3.5, 2.0]


class Metric(Recorder):
    """Gives each epoch a loss of its own."""

    def on_epoch_end(self) -> None:
        loop = self.train_loop_obj
        loop.insert_metric_result_into_history("my_loss", LOSSES[loop.epoch])


def fit(folder: Path, name: str, num_epochs: int, *callbacks: Any, freq: int = 0) -> Any:
    """Train with the two best models kept, under a time of its own."""
    set_seed(5)
    loop = make_loop(
        TrainLoopCheckpoint,
        "project",
        "experiment",
        folder,
        {},
        rm_subopt_local_models="my_loss",
        num_best_checkpoints_kept=2,
        iteration_save_freq=freq,
    )
    loop.experiment_timestamp = name
    loop.fit(num_epochs, callbacks=[Metric(), *callbacks])
    return loop


def kept(folder: Path, name: str) -> list[str]:
    paths = (folder / "project" / f"experiment_{name}" / "checkpoint_model").iterdir()
    return sorted(path.name.removeprefix(f"model_experiment_{name}_") for path in paths)


@pytest.mark.parametrize("freq", [0, 2])
def test_retention_goes_on_where_it_was(freq: int, tmp_path: Path) -> None:
    """A-69, A-77: in the same folder, whatever was removed or not when the process ended."""
    whole = fit(tmp_path / "whole", "T", 6, freq=freq)
    fit(tmp_path / "part", "T", 3, freq=freq)
    again = fit(tmp_path / "part", "T", 6, ModelLoadContinueTraining("T"), freq=freq)
    assert same(state_of(whole), state_of(again))
    assert kept(tmp_path / "part", "T") == kept(tmp_path / "whole", "T")
    assert {name.split("_")[0].removesuffix(".pth") for name in kept(tmp_path / "whole", "T")} == {
        "E1",
        "E5",
    }


class StopAt(Recorder):
    """Asks this process to stop, twice as job managers do."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def on_batch_end(self) -> None:
        if self.train_loop_obj.total_iteration_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)


def test_models_of_an_epoch_that_was_cut_are_ranked_with_the_rest(tmp_path: Path) -> None:
    """A-69, A-70: those of its batches before the signal, and those after."""
    fit(tmp_path / "whole", "T", 2, freq=1)
    with pytest.raises(RunInterrupted, match=r"model_experiment_T_E1_ITER5\.pth, and goes on"):
        fit(tmp_path / "part", "T", 2, StopAt(5), freq=1)
    fit(tmp_path / "part", "T", 2, ModelLoadContinueTraining("T"), freq=1)
    assert kept(tmp_path / "part", "T") == kept(tmp_path / "whole", "T")


def test_an_experiment_that_goes_on_under_another_time_leaves_the_first_alone(
    tmp_path: Path,
) -> None:
    fit(tmp_path, "1", 3)
    before = kept(tmp_path, "1")
    fit(tmp_path, "2", 6, ModelLoadContinueTraining("1"))
    assert kept(tmp_path, "1") == before == ["E1.pth", "E2.pth"]
    assert kept(tmp_path, "2") == ["E4.pth", "E5.pth"]


def test_a_plain_loop_leaves_signals_alone() -> None:
    """A-10: it saves nothing, so it has nothing to do first."""
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        make_loop().fit(2, callbacks=[StopAt(2)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [1, 1]


class Fails(AbstractResultPackage):
    def __init__(self) -> None:
        super().__init__("fails")

    def prepare_results_dict(self) -> Any:
        raise RuntimeError("labels that do not fit")


def test_an_evaluation_that_fails_does_not_lose_the_model(tmp_path: Path) -> None:
    """A-15, A-62: the model is saved before it is evaluated."""
    loop = make_loop(
        TrainLoopEndSave,
        *("project", "experiment", tmp_path, {"lr": 0.05}),
        test=loader(5),
        test_result_package=Fails(),
    )
    with pytest.raises(RuntimeError, match="labels that do not fit"):
        loop.fit(1)
    (path,) = tmp_path.rglob("model/*.pth")
    content = torch.load(path, weights_only=True)
    assert same(content["model_state_dict"].values(), state_of(loop))


def test_a_loaded_model_predicts_before_it_trains(tmp_path: Path) -> None:
    """A-75: with the callback registered, and no `fit`."""
    saved = fit(tmp_path, "T", 2)
    loop = make_loop()
    details = {"project_name": "project", "experiment_name": "experiment"}
    restore = ModelLoadContinueTraining(
        "T", local_model_result_folder_path=tmp_path, cloud_save_mode="local", **details
    )
    loop.callbacks_handler.register_callbacks([restore])
    assert torch.equal(loop.predict_on_validation_set()[0], saved.predict_on_validation_set()[0])
    assert same(state_of(saved), state_of(loop))

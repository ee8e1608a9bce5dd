"""Data set, model and tracking as objects, and the stages that callbacks are told of."""

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import nn

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")

from loopwright.experiment import Callback, Dataset, Experiment, Model, Tracking  # noqa: E402
from loopwright.problems import ProblemsError  # noqa: E402
from loopwright.stages import STAGES  # noqa: E402


def dataset(**changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "dataset": {"type": "iris"},
        "samples": {"train": 0.8, "test": 0.2},
        "preprocessors": [{"type": "standard_scaler"}],
    }
    return Dataset(**(values | changes))


def model(**training: Any) -> Model:
    return Model(model={"type": "mlp", "hidden": [4]}, training={"epochs": 1} | training)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_G_01_and_G_03_an_experiment_of_three_objects() -> None:
    experiment = Experiment(dataset=dataset(), model=model(), tracking=Tracking(tags={"who": "me"}))
    results = experiment.train()
    assert results["metrics"]["test_accuracy"] > 0
    assert experiment.spec.tracking.tags == {"who": "me"}


def test_G_02_without_tracking_and_in_order() -> None:
    tracking = Tracking(run_id="mine")
    experiment = Experiment(model(), dataset(), tracking)
    assert experiment.tracking is tracking
    assert Experiment(model(), dataset()).tracking.spec.trackers == ()


def test_G_04_and_G_18_the_keywords_of_a_data_set_and_their_defaults() -> None:
    plain = Dataset(dataset={"type": "iris"}).spec
    assert (plain.shuffle, plain.one_hot, plain.seed, plain.chunk_size) == (True, False, None, None)
    assert dataset(shuffle=False, one_hot=True).spec.one_hot


def test_G_11_fractions_above_one_are_refused_on_construction() -> None:
    with pytest.raises(ValueError, match="more than all rows"):
        dataset(samples={"train": 0.8, "test": 0.3})


def test_mistakes_are_told_at_once_with_their_places() -> None:
    with pytest.raises(ProblemsError) as caught:
        Dataset(dataset={"type": "irsi"}, preprocessors=[{"type": "divide"}])
    assert 'Did you mean "iris"?' in str(caught.value)
    assert "dataset.preprocessors[0].factor: expected a value" in str(caught.value)
    with pytest.raises(ProblemsError, match="model.training.epochs"):
        Model(model="mlp", training={"epochs": 0})


def test_G_24_to_dict_rebuilds_an_equal_object() -> None:
    first = dataset(seed=3)
    assert set(first.to_dict()) == {
        "dataset",
        "seed",
        "one_hot",
        "shuffle",
        "chunk_size",
        "samples",
        "preprocessors",
        "data_augmentors",
    }
    assert first.to_dict()["samples"] == {"train": 0.8, "test": 0.2}
    assert Dataset(**first.to_dict()) == first
    assert Dataset(**first.to_dict()) != dataset(seed=4)


def test_G_25_later_changes_of_the_callers_values_do_not_reach_it() -> None:
    steps = [{"type": "divide", "factor": 2}]
    first = dataset(preprocessors=steps)
    steps[0]["factor"] = 5
    steps.append({"type": "standard_scaler"})
    assert [each.arguments for each in first.spec.preprocessors] == [{"factor": 2}]


def test_G_26_parts_are_made_on_first_use_and_kept() -> None:
    experiment = Experiment(dataset=dataset(), model=model())
    first = experiment.dataset
    assert first._source is None
    assert first.dataset is first.dataset
    assert first.preprocessors is first.preprocessors
    experiment.train()
    assert isinstance(experiment.model.model, nn.Module)
    assert experiment.model.model is experiment.model.model


def test_a_model_with_all_shapes_needs_no_data() -> None:
    declared = Model(model={"type": "mlp", "input_shape": [4], "classes": 3})
    assert declared.model is declared.model
    with pytest.raises(ValueError, match="input_shape and classes come from the data"):
        _ = model().model


def test_G_32_parameters_and_keys_of_a_model() -> None:
    declared = model(batch_size=8)
    assert declared.parameters == {"hidden": [4]}
    assert declared.to_dict() == {
        "model": {"type": "mlp", "hidden": [4]},
        "training": {"epochs": 1, "batch_size": 8},
    }
    assert Model(**declared.to_dict()) == declared


def test_G_31_training_defaults_to_nothing() -> None:
    assert Model(model="mlp").to_dict()["training"] == {}


@pytest.mark.parametrize("name", ["log_params", "log_model_params"])
def test_G_33_and_G_34_both_names_are_taken(name: str) -> None:
    tracking = Tracking(**{name: False}, log_training_params=False)  # type: ignore[arg-type]
    assert tracking.to_dict()["log_params"] is False
    declared = {
        "dataset": {"dataset": "iris"},
        "model": {"model": "mlp"},
        "tracking": {name: False},
    }
    assert Experiment.from_dict(declared).spec.tracking.log_params is False


def test_two_names_for_one_thing_are_not_taken_together() -> None:
    with pytest.raises(ProblemsError, match="log_model_params"):
        Tracking(log_params=True, log_model_params=False)


def test_G_35_and_G_41_the_keys_of_tracking() -> None:
    first, second = Tracking(), Tracking()
    assert set(first.to_dict()) == {
        "run_id",
        "tags",
        "log_params",
        "log_metrics",
        "log_training_params",
        "trackers",
    }
    assert first.spec.run_id != second.spec.run_id
    assert Tracking(**first.to_dict()) == first


class Recorder(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []


for _name in [name for name in vars(Callback) if name.startswith("on_")]:

    def _note(self: Recorder, name: str = _name) -> None:
        self.calls.append(name)

    setattr(Recorder, _name, _note)


def test_G_55_to_G_58_each_stage_is_told_to_each_callback() -> None:
    """G-55, G-56, G-57, G-58: in their order, `on_train_end` once."""
    first, second = Recorder(), Recorder()
    told = [first, second]
    Experiment(dataset=dataset(), model=model()).train(callbacks=told)
    expected = ["on_train_begin"]
    for stage in STAGES:
        if stage != "augment_data":
            expected += [f"on_{stage}_begin", f"on_{stage}_end"]
    assert [call for call in first.calls if "augment" not in call] == [*expected, "on_train_end"]
    assert second.calls == first.calls


def test_G_56_the_base_does_nothing() -> None:
    Experiment(dataset=dataset(), model=model()).train(callbacks=[Callback()])


def test_G_59_training_twice_grows_no_list() -> None:
    recorder = Recorder()
    told = [recorder]
    experiment = Experiment(dataset=dataset(), model=model())
    experiment.train(callbacks=told)
    calls = list(recorder.calls)
    experiment.train(callbacks=told)
    assert told == [recorder]
    assert recorder.calls == calls * 2


@pytest.mark.parametrize("verbose", [True, False])
def test_G_60_verbose_logs_each_stage(verbose: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="loopwright"):
        Experiment(dataset=dataset(), model=model()).train(verbose=verbose)
    lines = [record.getMessage() for record in caplog.records]
    assert ("fit_model begins" in lines) is verbose
    assert ("fit_model ended" in lines) is verbose


def test_G_45_to_G_47_elapsed_holds_start_end_and_duration() -> None:
    """G-45, G-46, G-47: for each stage."""
    elapsed = Experiment(dataset=dataset(), model=model()).train()["elapsed"]
    assert {*STAGES, "total"} - elapsed.keys() <= {"augment_data"}
    for entry in elapsed.values():
        assert entry.keys() == {"start", "end", "duration"}
        assert entry["end"] >= entry["start"]


def test_the_folder_of_runs_can_be_chosen(tmp_path: Path) -> None:
    results = Experiment(dataset=dataset(), model=model()).train(trackings_dir=tmp_path / "mine")
    assert results["run_folder"].parent == tmp_path / "mine"

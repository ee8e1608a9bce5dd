"""The document's own example, on images in files, and the rows that it shows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
pytest.importorskip("kornia")
image_module = pytest.importorskip("PIL.Image")

from loopwright.events import TrainerCallback  # noqa: E402
from loopwright.experiment import Callback, Dataset, Experiment, Model, Tracking  # noqa: E402
from loopwright.problems import ProblemsError  # noqa: E402
from loopwright.stages import STAGES  # noqa: E402
from loopwright.trainer import Trainer  # noqa: E402


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twenty pictures of two kinds and of many sizes, in the form of the public data set."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    (folder / "train").mkdir(parents=True)
    for number in range(10):
        for name, brightness in (("cat", 40), ("dog", 160)):
            pixels = random.integers(0, 60, (20 + number, 30, 3), dtype=np.uint8) + brightness
            picture = image_module.fromarray(pixels.astype(np.uint8))
            picture.save(folder / "train" / f"{name}.{number}.jpg")
    return folder


def documented(path: Path, epochs: int = 10) -> Experiment:
    """Return the example, its pictures as small as the network takes them."""
    return Experiment(
        dataset=Dataset(
            dataset={"type": "dogs_vs_cats", "path": str(path)},
            samples={"train": 0.8, "test": 0.2},
            preprocessors=[{"type": "image_resize", "width": 16, "height": 16}],
            data_augmentors=[
                {
                    "type": "random_color",
                    "probability": 0.4,
                    "min_factor": 0.2,
                    "max_factor": 0.7,
                }
            ],
            shuffle=True,
            one_hot=True,
            seed=0,
        ),
        model=Model(
            model={"type": "dogs_vs_cats_cnn", "input_shape": [16, 16, 3]},
            training={"epochs": epochs, "batch_size": 32},
        ),
        tracking=Tracking(log_model_params=True, log_training_params=False),
        run={"seed": 0, "threads": 1},
    )


class Watch(TrainerCallback):
    """Keeps the trainer of a run."""

    trainer: Trainer

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.trainer = trainer


def test_the_example_trains_and_is_used(photographs: Path) -> None:
    """G-05, G-27, G-30, G-42, G-48, G-49: by type, with the arguments of the fit, without any."""
    trainer = documented(photographs)
    results = trainer.train()
    assert results["epochs"] == 10
    assert results["steps"] == 10, "16 rows are one batch of 32"
    assert {"train_loss_epoch", "test_loss", "test_accuracy"} <= results["metrics"].keys()
    history = results["history"]
    assert len(history["train_loss_epoch"]) == 10
    assert history["test_accuracy"] == [results["metrics"]["test_accuracy"]]
    assert trainer.labels_info.names == ("cat", "dog")  # type: ignore[attr-defined]
    trainer.save("saved_trainer.zip")
    loaded = Experiment.load("saved_trainer.zip")
    raw = [trainer.dataset.dataset[row][0] for row in range(4)]
    assert np.array_equal(loaded.predict_proba(raw), trainer.predict_proba(raw))


def test_other_keys_of_a_data_set_reach_its_constructor_g06(photographs: Path) -> None:
    """G-06: `path` and `mode` are the constructor's; another key is told."""
    folder = {"type": "image_folder", "path": str(photographs), "mode": "L"}
    assert Dataset(dataset=folder).dataset.features_info.shape[0] == 1
    with pytest.raises(ProblemsError, match='dataset.dataset.mod.*Did you mean "mode"'):
        Dataset(dataset={"type": "image_folder", "path": "x", "mod": "L"})


def test_one_hot_labels_have_a_place_for_each_class_g20(photographs: Path) -> None:
    """G-20: off unless asked for; as many places as `labels_info` has classes, in both parts."""
    assert Dataset(dataset="digits").spec.one_hot is False
    watch = Watch()
    documented(photographs, epochs=1).train(callbacks=[watch])
    for part in (watch.trainer.train_dataset, watch.trainer.eval_dataset):
        assert part[1].shape[1] == 2
        assert part[1].sum(dim=1).tolist() == [1.0] * len(part[1])


class Recorder(Callback):
    """Notes the stages."""

    def __init__(self) -> None:
        self.calls: list[str] = []


def _noting(name: str) -> Any:
    def note(self: Recorder) -> None:
        self.calls.append(name)

    return note


STAGE_METHODS = ["on_train_begin", "on_train_end"] + [
    f"on_{stage}_{end}" for stage in STAGES for end in ("begin", "end")
]
for _name in STAGE_METHODS:
    setattr(Recorder, _name, _noting(_name))


def test_the_stages_of_a_run_are_those_that_are_drawn(photographs: Path) -> None:
    """G-46, G-52, G-57: their names, methods without arguments, and their order."""
    assert STAGES == (
        "download_and_prepare_data",
        "load_data",
        "fit_preprocessors",
        "transform_data",
        "augment_data",
        "fit_model",
        "evaluate_model",
    )
    assert set(STAGE_METHODS) == {name for name in vars(Callback) if name.startswith("on_")}
    recorder = Recorder()
    spec = documented(photographs, epochs=1).to_dict()
    spec["dataset"]["preprocessors"].append("normalize")  # which is fitted
    elapsed = Experiment.from_dict(spec).train(callbacks=[recorder])["elapsed"]
    assert elapsed.keys() == {*STAGES, "total"}
    begun = [call for call in recorder.calls if call.endswith("_begin")]
    assert begun == ["on_train_begin", *(f"on_{stage}_begin" for stage in STAGES)]
    assert recorder.calls[-1] == "on_train_end"


def test_hardware_is_described_g51(photographs: Path) -> None:
    """G-51: as the document says, although the code that it points to has dropped it."""
    hardware = documented(photographs, epochs=1).train()["hardware_info"]
    assert hardware["cpu"]
    assert hardware["platform"]
    assert isinstance(hardware["gpus"], list)


def test_a_spec_needs_model_and_dataset_g70(photographs: Path) -> None:
    """G-70: tracking may be left out, and `to_dict` gives all three."""
    spec = documented(photographs).to_dict()
    assert {"dataset", "model", "tracking"} <= spec.keys()
    assert Experiment.from_dict(spec).to_dict() == spec
    Experiment.from_dict({key: spec[key] for key in ("dataset", "model")})
    for missing in ("dataset", "model"):
        with pytest.raises(ProblemsError, match=f"{missing}: expected a value"):
            Experiment.from_dict({k: v for k, v in spec.items() if k != missing})


def test_every_row_of_the_document_is_named_in_a_test() -> None:
    """Each id, from G-01 on, stands in the name or the docstring of a test."""
    tests = Path(__file__).parent.rglob("test_*.py")
    text = "\n".join(path.read_text("utf-8") for path in tests)
    named = {int(number) for number in re.findall(r"(?:\b|_)[gG][-_]?(\d\d)(?!\d)", text)}
    assert sorted(set(range(1, 77)) - named) == []

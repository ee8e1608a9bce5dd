"""Tests of augmented training: which samples, when, and that nothing else changes it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loopwright.augmentors import Augmentation
from loopwright.errors import RunInterrupted
from loopwright.events import TrainerCallback
from loopwright.experiment import Experiment
from loopwright.problems import ProblemsError
from loopwright.trainer import Trainer

pytest.importorskip("sklearn")

AUGMENTORS = [
    {"type": "rotate_range", "probability": 0.5, "max_left_rotation": 15, "max_right_rotation": 15},
    {"type": "random_erasing", "probability": 0.3, "rectangle_area": 0.4},
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def digits(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": {
            "dataset": "digits",
            "samples": {"train": 96, "validation": 20, "test": 20},
            "preprocessors": [{"type": "divide", "factor": 16}],
            "data_augmentors": AUGMENTORS,
        },
        "model": {
            "model": {"type": "mlp", "hidden": [8]},
            "training": {"epochs": 2, "batch_size": 32},
        },
        "run": {"seed": 0, "device": "cpu"} | changes,
    }


class Seen(TrainerCallback):
    """Keeps what the model got, with the number of each sample in training."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.samples: list[tuple[int, Tensor]] = []

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.trainer = trainer
        trainer.model.register_forward_pre_hook(lambda module, args: self.inputs.append(args[0]))

    def on_train_step_end(self, trainer: Trainer, batch: Any, **kwargs: Any) -> None:
        self.samples.append((trainer.run_history.current_epoch, batch[2]))


def test_G_53_and_G_54_training_images_alone_are_augmented_after_the_preprocessors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = Seen()
    Experiment.from_dict(digits()).train(callbacks=[seen])
    assert "Augmenting in batches on cpu: RotateRange, RandomErasing" in capsys.readouterr().out
    images, labels, rows = seen.trainer.train_dataset
    source = Experiment.from_dict(digits()).dataset.dataset
    everything, all_labels = source.tensors()
    assert isinstance(everything, Tensor)
    assert torch.equal(everything[rows] / 16, images)
    assert torch.equal(all_labels[rows], labels)
    augmentation = seen.trainer.augmentation
    assert isinstance(augmentation, Augmentation)
    of_training = [x for x in seen.inputs if len(x) == 32]
    for (epoch, samples), found in zip(seen.samples, of_training, strict=True):
        plain = everything[samples] / 16
        augmentation.epoch.fill_(epoch)
        assert torch.equal(augmentation(plain, samples), found)
        changed = (found != plain).flatten(1).any(dim=1).float().mean()
        assert 0.3 < float(changed) < 0.95
    others = torch.cat([x for x in seen.inputs if len(x) != 32])
    known = everything / 16
    assert all((known == image).flatten(1).all(dim=1).any() for image in others)


def test_the_same_run_again_and_one_that_was_stopped_see_the_same_images() -> None:
    class Stop(TrainerCallback):
        def on_train_step_end(self, trainer: Trainer, **kwargs: Any) -> None:
            if trainer.progress.step == 4:
                import signal

                signal.raise_signal(signal.SIGTERM)

    whole = Experiment.from_dict(digits(folder="whole")).train()
    again = Experiment.from_dict(digits(folder="again")).train()
    with pytest.raises(RunInterrupted):
        Experiment.from_dict(digits(folder="cut")).train(callbacks=[Stop()])
    resumed = Experiment.from_dict(digits(folder="cut")).train(resume=True)
    assert whole["history"] == again["history"] == resumed["history"]
    plain = digits()
    del plain["dataset"]["data_augmentors"]
    assert Experiment.from_dict(plain).train()["history"] != whole["history"]


@pytest.mark.slow
def test_a_step_that_runs_as_one_program_augments_anew_in_each_epoch() -> None:
    losses = {}
    for mode in ("eager", "capture"):
        spec = digits(step_mode=mode)
        spec["model"]["training"] |= {"epochs": 3}
        results = Experiment.from_dict(spec).train()
        losses[mode] = results["history"]["train_loss_epoch"]
    assert losses["capture"] == pytest.approx(losses["eager"], rel=1e-4)


def test_the_size_of_a_batch_does_not_change_what_is_drawn() -> None:
    found = []
    for size in (32, 24):
        spec, seen = digits(), Seen()
        spec["model"]["training"] |= {"batch_size": size, "epochs": 1}
        Experiment.from_dict(spec).train(callbacks=[seen])
        inputs = torch.cat([x for x in seen.inputs if len(x) == size])
        order = torch.cat([samples for _, samples in seen.samples]).argsort()
        found.append(inputs[order])
    assert torch.equal(*found)


def test_G_64_prediction_augments_nothing() -> None:
    experiment = Experiment.from_dict(digits())
    experiment.train()
    raw = experiment.dataset.dataset.read(0, 8)[0]
    assert isinstance(raw, Tensor)
    with torch.no_grad():
        expected = experiment.model.model.eval()(raw / 16).softmax(dim=1)
    np.testing.assert_allclose(experiment.predict_proba(raw), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dataset": "iris", "preprocessors": [], "samples": {"train": 0.6}},
            "augmentors change images of the shape",
        ),
        ({"preprocessors": ["standard_scaler"]}, "prepare them by divide or normalize"),
        ({"data_augmentors": [{"type": "grayscale", "probability": 1.0}]}, "takes colour images"),
        ({"data_augmentors": [{"type": "invert", "probability": 2.0}]}, "probability is 2.0"),
    ],
)
def test_augmentors_that_do_not_fit_are_told(changes: dict[str, Any], message: str) -> None:
    spec = digits()
    spec["dataset"] |= changes
    with pytest.raises(ProblemsError, match=message) as caught:
        Experiment.from_dict(spec).train()
    assert caught.value.problems[0].path[:2] == ("dataset", "data_augmentors")
    assert not Path("runs").exists()


class Mean(nn.Module):
    """Tells whether gradients flow through what it is given."""

    def __init__(self, input_shape: list[int], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        assert not images.requires_grad
        outputs: Tensor = self.layer(images.flatten(1))
        return outputs


def test_fitted_normalisation_tells_the_range_after_fitting() -> None:
    spec = digits()
    spec["dataset"]["preprocessors"] = ["normalize"]
    spec["model"]["model"] = {"type": f"{__name__}:Mean"}
    seen = Seen()
    Experiment.from_dict(spec).train(callbacks=[seen])
    low, high = seen.trainer.augmentation.describes.value_range or (0, 0)
    images = seen.trainer.train_dataset[0]
    assert float(torch.as_tensor(low)) == pytest.approx(float(images.min()), abs=1e-4)
    assert float(torch.as_tensor(high)) == pytest.approx(float(images.max()), abs=1e-4)

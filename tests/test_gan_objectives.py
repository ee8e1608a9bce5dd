"""Declared runs of networks that play against each other, and the pictures in their reports."""

from pathlib import Path
from typing import Any

import pytest
import torch

for _package in ("pydantic", "sklearn", "yaml", "matplotlib"):
    pytest.importorskip(_package)

from loopwright.errors import NotSupportedError  # noqa: E402
from loopwright.events import TrainerCallback  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402
from loopwright.history import InMemoryRunHistory  # noqa: E402
from loopwright.plots import new_axes, plot_gan_losses  # noqa: E402
from loopwright.problems import ProblemsError  # noqa: E402
from loopwright.trainers import CycleGanInferrer, SemiSupervisedAaeInferrer  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ["model.training.epochs=2", "model.training.max_steps=6", "run.threads=1"]
PAIR = {"discriminator", "generator"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "networks", "pictures"),
    [
        ("dcgan", PAIR, {"samples"}),
        (
            "aae",
            {"discriminator", "reconstruction", "regularization"},
            {"samples", "reconstructions", "latent-space"},
        ),
        ("pix2pix", PAIR, {"translations"}),
        ("cyclegan", {"discriminators", "generators"}, {"translations"}),
    ],
)
def test_the_examples_train_and_show_their_pictures(
    name: str, networks: set[str], pictures: set[str]
) -> None:
    """L-102: a loss of each network in the history, and one picture of all."""
    results = Experiment.from_yaml(EXAMPLES / f"{name}.yaml", SHORT).train()
    recorded = {f"train_{network}_loss_epoch" for network in networks}
    assert recorded <= set(results["metrics"])
    assert results["metrics"]["test_loss"] > 0
    drawn = {path.stem for path in (results["run_folder"] / "pictures").iterdir()}
    assert pictures | {"gan-losses"} <= {stem.removesuffix("-0001") for stem in drawn}
    page = (results["run_folder"] / "report.html").read_text()
    assert all(f'<img alt="{stem}"' in page for stem in drawn)


def declared(name: str, **training: Any) -> dict[str, Any]:
    values = Experiment.from_yaml(EXAMPLES / f"{name}.yaml", SHORT).to_dict()
    values["run"].pop("callbacks")
    values["model"]["training"] |= training
    return values


def test_codes_with_classes_train_by_name() -> None:
    values = declared("aae", objective="semi_supervised_aae")
    values["model"]["model"]["type"] = "semi_supervised_aae"
    values["run"]["callbacks"] = ["samples", "latent_space"]
    experiment = Experiment.from_dict(values)
    assert "train_classification_loss_epoch" in experiment.train()["metrics"]
    inferrer = experiment.inferrer
    assert isinstance(inferrer, SemiSupervisedAaeInferrer)
    assert inferrer.generate(2, seed=1).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ["aae", "pix2pix", "cyclegan"])
def test_a_saved_model_makes_the_same_images(name: str) -> None:
    experiment = Experiment.from_dict(declared(name))
    experiment.train()
    raw = torch.rand(3, 1, 8, 8)
    made = experiment.predict(raw)
    assert made.shape == (3, 1, 8, 8)
    experiment.save("model.zip")
    loaded = Experiment.load("model.zip")
    assert (loaded.predict(raw) == made).all()
    if name == "cyclegan":
        assert isinstance(loaded.inferrer, CycleGanInferrer)


def test_a_generator_is_saved_and_predicts_nothing_for_a_sample() -> None:
    experiment = Experiment.from_dict(declared("dcgan"))
    experiment.train()
    with pytest.raises(NotSupportedError, match="no prediction for a sample.*inferrer.generate"):
        experiment.predict(torch.rand(1, 1, 8, 8))
    experiment.save("model.zip")
    made = Experiment.load("model.zip").inferrer.generate(3, seed=1)
    assert torch.equal(made, experiment.inferrer.generate(3, seed=1))


@pytest.mark.parametrize(
    ("name", "model", "training", "message"),
    [
        ("dcgan", {"norm": "layer"}, {}, "expected 'batch', 'instance' or 'none'"),
        ("dcgan", {"type": "vae"}, {}, "The model is a VariationalAutoencoder"),
        ("dcgan", {"ema_decay": 1.0}, {}, "ema_decay is 1.0"),
        ("dcgan", {}, {"objective": "autoencoder"}, "does not go through model and loss"),
        ("dcgan", {}, {"objective": {"type": "dcgan", "gan_loss": "hinge"}}, "gan_loss"),
        ("pix2pix", {"num_levels": 4}, {}, "num_levels is 4; images of 8x8 can be halved 3 times"),
        ("pix2pix", {"discriminator_layers": 3}, {}, "wants 3 pixels after that"),
        ("cyclegan", {"discriminator_layers": 2}, {}, "wants 3 pixels after that"),
    ],
)
def test_mistakes_are_told_before_the_run(
    name: str, model: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    values = declared(name, **training)
    if "type" in model:
        values["model"]["model"] = {}
    values["model"]["model"] |= model
    with pytest.raises(ProblemsError, match=message):
        Experiment.from_dict(values).train()
    assert not Path("runs").exists()


def test_a_schedule_holds_for_every_network() -> None:
    values = declared("dcgan", epochs=1, max_steps=None)
    steps = {"num_iters": "NUM_UPDATE_STEPS_PER_EPOCH"}
    values["model"]["training"]["schedule"] = {
        "type": "linear_decay", "lr_max": 1e-3, "lr_min": 1e-5, **steps,
    }  # fmt: skip
    values["dataset"]["samples"] = {"train": 128, "test": 64}
    values["run"]["callbacks"] = ["training_plots"]
    rates: dict[str, list[float]] = {"generator": [], "discriminator": []}

    class Watching(TrainerCallback):
        def on_train_step_start(self, trainer: Any, **kwargs: Any) -> None:
            for name, seen in rates.items():
                seen.append(trainer.optimizer[name].param_groups[0]["lr"])

    results = Experiment.from_dict(values).train(callbacks=[Watching()])
    assert rates["generator"] == rates["discriminator"] == sorted(rates["generator"], reverse=True)
    assert len(set(rates["generator"])) == 2
    assert (results["run_folder"] / "pictures" / "schedule-lr.svg").exists()


def test_pictures_that_a_model_does_not_make_are_told() -> None:
    values = declared("pix2pix")
    values["run"]["callbacks"] = ["samples"]
    with pytest.raises(ValueError, match="Pix2PixInferrer.*Pix2PixTrainer, has no 'generate'"):
        Experiment.from_dict(values).train()


def test_the_best_checkpoint_may_watch_one_network() -> None:
    values = declared("dcgan")
    values["run"]["checkpoint"] = {"keep_best": 1, "watch": "train_generator_loss_epoch"}
    Experiment.from_dict(values).train()
    values["run"]["checkpoint"]["watch"] = "train_critic_loss_epoch"
    with pytest.raises(ProblemsError, match="train_discriminator_loss_epoch"):
        Experiment.from_dict(values).train()


def test_the_losses_of_networks_are_drawn_on_given_axes() -> None:
    history = InMemoryRunHistory()
    with pytest.raises(ValueError, match="no train_<name>_loss_epoch.*it has nothing"):
        plot_gan_losses(history)
    for value in (1.0, 2.0, 4.0):
        history.update_metric("train_loss_epoch", 9.0)
        history.update_metric("train_generator_loss_epoch", value)
        history.update_metric("train_discriminator_loss_epoch", -value)
    ax = new_axes()
    assert plot_gan_losses(history, ax=ax) is ax
    lines = {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}
    assert lines == {"generator": [1.0, 2.0, 4.0], "discriminator": [-1.0, -2.0, -4.0]}
    assert ax.get_xlabel() == "epoch"

"""Declared runs whose objective is no loss on labels, and the pictures in their reports."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

for _package in ("pydantic", "sklearn", "yaml", "matplotlib"):
    pytest.importorskip(_package)

from tiny import tiny_data, tiny_trainer  # noqa: E402

from loopwright.callbacks import TrainingPlotsCallback  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402
from loopwright.models import vae  # noqa: E402
from loopwright.problems import ProblemsError  # noqa: E402
from loopwright.report import render_report  # noqa: E402
from loopwright.run_record import read_run  # noqa: E402
from loopwright.trainers import (  # noqa: E402
    AutoencoderInferrer,
    LatentSpaceCallback,
    ReconstructionsCallback,
    SamplesCallback,
    VaeTrainer,
)

EXAMPLE = Path(__file__).parents[1] / "examples" / "vae.yaml"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def declared(**training: Any) -> dict[str, Any]:
    return {
        "dataset": {
            "dataset": "digits",
            "samples": {"train": 300, "validation": 60, "test": 60},
            "preprocessors": [{"type": "divide", "factor": 16}],
        },
        "model": {
            "model": {"type": "autoencoder", "code_size": 4, "hidden": [16]},
            "training": {"epochs": 1, "objective": "autoencoder"} | training,
        },
        "run": {"seed": 1, "threads": 1},
    }


def test_the_example_learns_and_shows_its_pictures() -> None:
    experiment = Experiment.from_yaml(EXAMPLE, ["model.training.epochs=2", "run.threads=1"])
    results = experiment.train()
    losses = [loss for _, loss in read_run(results["run_folder"]).curves()["train_loss_epoch"]]
    assert losses[-1] < 0.9 * losses[0]
    assert set(results["metrics"]) == {"train_loss_epoch", "eval_loss_epoch", "test_loss"}
    pictures = {path.name for path in (results["run_folder"] / "pictures").iterdir()}
    epochs = {f"reconstructions-{epoch:04d}.png" for epoch in (1, 2)}
    epochs |= {f"samples-{epoch:04d}.png" for epoch in (1, 2)}
    assert pictures == epochs | {"losses.svg", "schedule-lr.svg", "latent-space.png"}
    page = (results["run_folder"] / "report.html").read_text()
    shown = re.findall(
        r'<img alt="([\w-]+)" src="data:image/(?:png|svg\+xml);base64,([^"]+)">', page
    )
    assert {name for name, _ in shown} == {Path(name).stem for name in pictures}
    assert base64.b64decode(dict(shown)["reconstructions-0001"]).startswith(b"\x89PNG")
    model: Any = experiment.model.model
    assert AutoencoderInferrer(model).generate(3, seed=0).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ("autoencoder", "autoencoder"),
        ("autoencoder", {"type": "denoising_autoencoder", "noise": 0.1, "masked": 0.2}),
        ("vae", {"type": "vae", "beta": 0.5}),
    ],
)
def test_every_objective_trains_by_name(model: str, objective: Any) -> None:
    values = declared(objective=objective)
    values["model"]["model"]["type"] = model
    experiment = Experiment.from_dict(values)
    results = experiment.train()
    assert results["metrics"]["test_loss"] > 0
    assert experiment.evaluate()["test_loss"] == pytest.approx(
        results["metrics"]["test_loss"], rel=0.1
    )


def test_a_declared_loss_compares_with_the_samples() -> None:
    values = declared(loss="mean_squared_error", max_steps=1)
    assert Experiment.from_dict(values).train()["metrics"]["test_loss"] < 2


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"objective": "autoencodr"}, "(?s)model.training.objective.*autoencoder"),
        ({"objective": {"type": "vae", "betta": 1.0}}, "(?s)objective.betta.*beta"),
        ({"objective": {"type": "vae", "beta": "much"}}, "(?s)objective.beta.*number"),
        ({"objective": {"type": "denoising_autoencoder", "masked": 2.0}}, "masked=2.0"),
        ({"objective": "vae"}, "does not go through model and loss"),
    ],
)
def test_mistakes_are_told_before_the_run(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemsError, match=message):
        Experiment.from_dict(declared(**training)).train()
    assert not Path("runs").exists()


def test_arguments_reach_the_objective() -> None:
    """Without learning, a larger weight of the divergence is a larger loss."""
    losses = []
    for beta in (0.0, 1000.0):
        values = declared(objective={"type": "vae", "beta": beta}, max_steps=1)
        values["model"]["model"]["type"] = "vae"
        values["model"]["training"]["optimizer"] = {"type": "sgd", "lr": 0.0}
        losses.append(Experiment.from_dict(values).train(f"beta-{beta}")["metrics"]["test_loss"])
    assert losses[1] > 2 * losses[0]


def test_pictures_change_nothing() -> None:
    """Drawing takes nothing from the run: its random draws and its weights stay."""
    values = declared(objective="vae", epochs=2)
    values["model"]["model"]["type"] = "vae"
    plain = Experiment.from_dict(values).train("plain")["metrics"]
    values["run"]["callbacks"] = ["reconstructions", "samples", "latent_space", "training_plots"]
    assert Experiment.from_dict(values).train("drawn")["metrics"] == plain


@pytest.mark.parametrize("labels", [True, False])
def test_the_latent_space_shows_the_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: bool
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "loopwright.trainers.pictures.save_figure", lambda ax, path: drawn.append(ax)
    )
    model = vae([1, 2, 2], code_size=3, hidden=[4])
    images = torch.rand(20, 1, 2, 2)
    data = (images, torch.arange(20) % 2) if labels else images
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    callbacks = [LatentSpaceCallback()]
    trainer = VaeTrainer(model, None, optimizer, callbacks, run_dir=tmp_path / "run")
    trainer.train(data, 1)
    codes = model.encode(images).detach()
    shown = torch.tensor(drawn[0].collections[0].get_offsets())
    kept = codes.var(dim=0).argsort()[1:].sort().values
    torch.testing.assert_close(shown.float(), codes[:, kept])
    assert (drawn[0].get_legend() is not None) == labels


def test_pictures_are_drawn_of_arrays_too(tmp_path: Path) -> None:
    """Of all data in memory that a trainer takes; the labels of a `TensorDataset` are coloured."""
    tensors = torch.rand(6, 1, 4, 4), torch.arange(6)
    arrays = tuple(each.numpy() for each in tensors)
    some = Subset(TensorDataset(*tensors), [5, 1])
    for number, data in enumerate((arrays, arrays[0], some)):
        model = vae([1, 4, 4], code_size=2, hidden=[4])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        callbacks = [ReconstructionsCallback(2), LatentSpaceCallback()]
        run_dir = tmp_path / str(number)
        VaeTrainer(model, None, optimizer, callbacks, run_dir=run_dir).train(data, 1)
        drawn = sorted(path.name for path in (run_dir / "pictures").iterdir())
        assert drawn == ["latent-space.png", "reconstructions-0001.png"]


def test_pictures_need_a_folder() -> None:
    trainer = tiny_trainer(callbacks=[TrainingPlotsCallback()])
    with pytest.raises(ValueError, match=r"Pictures need a folder.*run_dir"):
        trainer.train(tiny_data(), 1)


def test_pictures_are_of_images(tmp_path: Path) -> None:
    for kind in (ReconstructionsCallback, SamplesCallback):
        with pytest.raises(ValueError, match="num_samples is 0"):
            kind(0)
    trainer = tiny_trainer(callbacks=[ReconstructionsCallback()], run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"shape \(3,\); pictures are drawn of images"):
        trainer.train(tiny_data(), 1)


def test_a_page_without_pictures_has_no_section(tmp_path: Path) -> None:
    tiny_trainer(run_dir=tmp_path / "run").train(tiny_data(), 1)
    page = render_report(read_run(tmp_path / "run"))
    assert "Pictures" not in page
    assert "<img" not in page
    (tmp_path / "run" / "pictures").mkdir()
    (tmp_path / "run" / "pictures" / "a'<b>.png").write_bytes(b"x")
    (tmp_path / "run" / "pictures" / "script.js").write_bytes(b"x")
    page = render_report(read_run(tmp_path / "run"))
    assert "a&#x27;&lt;b&gt;" in page
    assert "script.js" not in page

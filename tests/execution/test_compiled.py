"""Programs that are compiled for real: the same training, and code that later runs find."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn

from loopwright.execution import auto
from loopwright.trainer import Trainer

pytestmark = pytest.mark.slow


class Transformer(nn.Module):
    """Has four places that drop out, of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(0, 3, (40,), generator=generator)
    return torch.randn(40, 1, 8, 8, generator=generator), targets


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randint(0, 11, (40, 6), generator=generator)
    return inputs, inputs[:, 0] % 3


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, 3),
    )


class Recurrent(nn.Module):
    """Reads six tokens in both directions, and drops out between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(inputs))[0].mean(1))


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "mlp": (lambda: tiny_model(dropout=0.3), lambda: tiny_data(40), {"gradient_clip_norm": 0.5}),
    "cnn": (convolutions, images, {}),
    "transformer": (Transformer, tokens, {}),
    "lstm": (Recurrent, tokens, {}),
    "accumulation": (tiny_model, lambda: tiny_data(40), {"gradient_accumulation_steps": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_compiled_steps_are_those_of_eager(name: str) -> None:
    make_model, make_data, options = CASES[name]
    runs = []
    for mode in ("eager", "capture"):
        torch.manual_seed(4)
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, eps=1e-3)
        trainer = Trainer(
            model,
            nn.CrossEntropyLoss(),
            optimizer,
            (),
            step_mode=mode,  # type: ignore[arg-type]
            device="cpu",
            seed=1,
        )
        trainer.train(make_data(), 3, make_data(), per_device_batch_size=8, **options)
        runs.append((trainer, torch.get_rng_state()))
    (eager, drawn), (captured, drawn_too) = runs
    assert torch.equal(drawn, drawn_too)
    assert captured.step_report.choice == "capture"
    for one, other in zip(weights(eager), weights(captured), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_bits_are_the_same_in_each_run() -> None:
    runs = []
    for _ in range(2):
        trainer = tiny_trainer(model=tiny_model(dropout=0.3), step_mode="capture", device="cpu")
        torch.manual_seed(4)
        trainer.train(tiny_data(40), 3, per_device_batch_size=8)
        runs.append(trainer)
    assert same(weights(runs[0]), weights(runs[1]))


def test_compile_mode_trains_as_eager_and_leaves_the_model_as_it_was() -> None:
    class OwnStep(Trainer):
        steps = 0

        def optimizer_step(self) -> None:
            self.steps += 1
            super().optimizer_step()

    runs = []
    for mode in ("eager", "compile"):
        model = tiny_model()
        trainer = tiny_trainer(OwnStep, model, step_mode=mode, device="cpu")
        trainer.train(tiny_data(40), 2, tiny_data(13), per_device_batch_size=8)
        assert model._compiled_call_impl is None  # type: ignore[comparison-overlap]
        assert trainer.steps == trainer.progress.step == 10
        runs.append(trainer)
    found, expected = (each.predict(tiny_data(13)[0], 8) for each in runs)
    torch.testing.assert_close(found, expected)
    assert runs[1].step_report.choice == "compile"
    for one, other in zip(weights(runs[0]), weights(runs[1]), strict=True):
        torch.testing.assert_close(one, other)
    losses = [each.run_history.get_metric_values("eval_loss_epoch") for each in runs]
    assert losses[1] == pytest.approx(losses[0])


def test_auto_finds_a_gain_in_a_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of this size spends nearly all of its time between operations."""
    monkeypatch.setattr(auto, "read_decision", lambda key: None)
    monkeypatch.setattr(auto, "SECONDS_TO_COMPILE", (0.0, 0.0, 0.0))
    trainer = tiny_trainer(step_mode="auto", device="cpu")
    trainer.train(tiny_data(4096), 1, per_device_batch_size=8)
    assert trainer.step_report.choice == "capture"
    assert trainer.step_report.gain > 1.2


_JOB = """
import sys
sys.path.insert(0, {tests!r})
from tiny import tiny_data, tiny_model, tiny_trainer
trainer = tiny_trainer(model=tiny_model(), step_mode="capture", device="cpu")
trainer.train(tiny_data(32), 1, per_device_batch_size=8)
from torch._dynamo.utils import counters
print("compiled" if counters["inductor"]["fxgraph_cache_miss"] else "found")
"""


def test_a_later_process_finds_the_compiled_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    job = [sys.executable, "-c", _JOB.format(tests=str(Path(__file__).parents[1]))]
    found = [
        subprocess.run(job, capture_output=True, text=True, timeout=300, check=True).stdout
        for _ in range(2)
    ]
    assert [each.splitlines()[-1] for each in found] == ["compiled", "found"]
    folder = tmp_path / "loopwright" / "steps"
    assert any(folder.rglob("*.so"))
    assert folder.stat().st_mode & 0o077 == 0


def test_the_folder_of_programs_is_the_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an earlier run of the process has compiled the same step."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny_trainer(step_mode="capture", device="cpu").train(tiny_data(16), 1)
    folder = tmp_path / "loopwright" / "steps"
    assert folder.stat().st_mode & 0o077 == 0
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") != str(folder)

"""The fingerprint of weights: every bit counts, and nothing else does."""

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_data, tiny_model, tiny_trainer
from torch import nn

import loopwright
from loopwright.weights_hash import fingerprint


def test_the_same_weights_have_the_same_one() -> None:
    model = tiny_model()
    expected = fingerprint(model)
    assert len(expected) == 16
    assert int(expected, 16) >= 0
    assert fingerprint(tiny_model()) == fingerprint(model.state_dict()) == expected
    assert fingerprint(dict(reversed(model.state_dict().items()))) == expected
    columns = {name: value.mT.contiguous().mT if value.ndim == 2 else value.clone()
               for name, value in model.state_dict().items()}  # fmt: skip
    assert fingerprint(columns) == expected
    assert fingerprint(torch.compile(model, backend="eager")) == expected  # type: ignore[arg-type]
    assert loopwright.fingerprint is fingerprint


def test_it_is_the_documented_hash() -> None:
    """It must not change between versions."""
    weights = {"b": torch.tensor([1, 2]), "a": torch.tensor(0.5)}
    assert fingerprint(weights) == "c74875e75de4c27f"


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool, torch.int8],
)
def test_all_types_of_tensors_are_taken(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(2, 3).to(dtype), torch.ones(2, 3).to(dtype)
    prints = {fingerprint({"a": each}) for each in (zeros, ones, zeros[0], zeros[:, :0])}
    assert len(prints) == 4
    assert fingerprint({"a": torch.eye(3).to_sparse()}) == fingerprint({"a": torch.eye(3)})


def test_every_difference_shows() -> None:
    weights = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.zeros(2, 3).copysign(torch.tensor(-1.0))},
        {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
        {"a": torch.zeros(2, 3).index_fill(0, torch.tensor(1), 1e-45)},
    ]
    prints = [fingerprint(each) for each in (weights, *others)]
    assert len(set(prints)) == len(prints)
    norm = nn.BatchNorm1d(3)
    before = fingerprint(norm)
    norm(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert fingerprint(norm) != before, "buffers belong to it"


def test_a_run_prints_and_stores_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(name: str) -> str:
        trainer = tiny_trainer(run_dir=tmp_path / name)
        trainer.train(tiny_data(), 2, per_device_batch_size=4)
        expected = fingerprint(trainer.model)
        assert f"The run ended with weights {expected}\n" in capsys.readouterr().out
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["fingerprint"] == expected
        assert expected in (tmp_path / name / "report.html").read_text()
        return expected

    assert run("first") == run("second")

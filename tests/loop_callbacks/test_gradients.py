"""Gradients clipped before the step, described and drawn (A-95)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loops import TwoHeads, loader, make_loop
from torch import nn

from loopwright.loop_callbacks import (
    AbstractCallback,
    GradDistributionPlot,
    GradientStatsPrint,
    GradNormClip,
    GradValueClip,
    gradient_stats,
)
from loopwright.seed import set_seed


class Gradients(AbstractCallback):
    """Keeps copies of the gradients of each update, after the other callbacks."""

    def __init__(self) -> None:
        super().__init__("gradients", execution_order=10)
        self.found: list[list[torch.Tensor]] = []

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        optimizers = getattr(
            self.train_loop_obj.optimizer, "optimizer_list", [self.train_loop_obj.optimizer]
        )
        parameters = optimizers[optimizer_idx].param_groups[0]["params"]
        self.found.append([p.grad.clone() for p in parameters])


def gradients_with(*callbacks: Any, model: Any = None, **options: Any) -> list[list[torch.Tensor]]:
    set_seed(3)
    seen = Gradients()
    loop = make_loop(train=loader(), model=model)
    loop.grad_cb_used = True
    loop.fit(num_epochs=1, callbacks=[*callbacks, seen], **options)
    return seen.found


def norm(gradients: list[torch.Tensor]) -> float:
    return float(nn.utils.get_total_norm(gradients))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a95_the_whole_gradient_is_clipped_once_per_update(accumulation: int) -> None:
    """The first update has the gradient of a run without clipping, scaled to the norm."""
    free = gradients_with(grad_accumulation=accumulation)
    clipped = gradients_with(GradNormClip(0.1), grad_accumulation=accumulation)
    assert len(clipped) == (4 if accumulation == 1 else 2)
    scale = 0.1 / (norm(free[0]) + 1e-6)
    assert scale < 1
    for one, other in zip(free[0], clipped[0], strict=True):
        torch.testing.assert_close(one * scale, other)
    assert all(norm(gradients) <= 0.1 + 1e-6 for gradients in clipped)


def test_gradient_values_are_clipped() -> None:
    free, clipped = gradients_with(), gradients_with(GradValueClip(0.01))
    for one, other in zip(free[0], clipped[0], strict=True):
        torch.testing.assert_close(one.clamp(-0.01, 0.01), other)
    assert max(float(g.abs().max()) for g in free[0]) > 0.01


def test_several_optimizers_are_clipped_each_by_itself() -> None:
    clipped = gradients_with(GradNormClip(0.1), model=TwoHeads())
    assert len(clipped) == 8
    assert all(norm(gradients) <= 0.1 + 1e-6 for gradients in clipped)


def test_both_kinds_of_clipping_go_together() -> None:
    clipped = gradients_with(GradValueClip(0.01), GradNormClip(0.005))
    assert all(norm(gradients) <= 0.005 + 1e-6 for gradients in clipped)


def test_statistics_of_a_gradient_by_hand() -> None:
    found = gradient_stats(torch.tensor([[0.0, 2.0], [0.0, 2.0]]))
    assert (found.mean, found.std, found.zero_share) == (1.0, 1.0, 0.5)


def layers(model: Any) -> list[nn.Linear]:
    return [layer for layer in model.layers if isinstance(layer, nn.Linear)]


def test_statistics_are_printed_every_so_many_updates(capsys: pytest.CaptureFixture[str]) -> None:
    callback = GradientStatsPrint(layers, stats_eval_freq=3)
    make_loop().fit(num_epochs=2, callbacks=[callback])
    lines = [line for line in capsys.readouterr().out.splitlines() if "Gradients of" in line]
    assert lines == ["Gradients of update 3:", "Gradients of update 6:"]
    again = GradientStatsPrint(layers, stats_eval_freq=3)
    again.load_state_dict(callback.state_dict())
    assert again.weights_update_counter == 8
    with pytest.raises(ValueError, match="expected 1 or more"):
        GradientStatsPrint(layers, stats_eval_freq=0)


def test_frozen_layers_have_no_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    loop = make_loop()
    layers(loop.model)[0].requires_grad_(False)
    loop.fit(num_epochs=1, callbacks=[GradientStatsPrint(layers)])
    text = capsys.readouterr().out
    assert "    layer 0: no gradient" in text
    assert "    layer 1: mean " in text


def test_distributions_are_those_of_the_last_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn are the gradients that the last step of the epoch used."""
    drawn: list[Any] = []
    plot = GradDistributionPlot(
        layers,
        project_name="project",
        experiment_name="trial",
        local_model_result_folder_path=str(tmp_path),
        cloud_save_mode="local",
    )
    seen, loop = Gradients(), make_loop()
    from loopwright.results import plots

    original = plots.plot_histogram
    monkeypatch.setattr(
        plots, "plot_histogram", lambda values, name: drawn.append(values) or original(values, name)
    )
    loop.fit(num_epochs=2, callbacks=[plot, seen])
    folder = tmp_path / "project" / f"trial_{loop.experiment_timestamp}" / "results"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert files == [
        f"grad_distribution/epoch_{epoch}/layer_{layer}.png" for epoch in (0, 1) for layer in (0, 1)
    ]
    last = seen.found[-1]
    np.testing.assert_array_equal(drawn[2], last[0].reshape(-1))
    np.testing.assert_array_equal(drawn[3], last[2].reshape(-1))
    with pytest.raises(ValueError, match="expected one of png, pdf"):
        GradDistributionPlot(layers, file_format="gif")

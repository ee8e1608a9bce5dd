"""Steps of networks that play against each other run as one program, or say why not."""

from typing import Any

import pytest
import torch
from trainers.test_gans import CASES, make, run

from loopwright.errors import NotSupportedError
from loopwright.seed import set_seed

CAPTURED = {"dcgan": {}, "wgan-gp": {"generator_every": 1}, "aae": {}, "pix2pix": {}}


@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_step_does_what_eager_does(name: str, uncompiled: list[Any]) -> None:
    """Every network, draw, norm and penalty; L-102: and records the same losses."""
    case, trained = CASES[name], []
    for mode in ("eager", "capture"):
        trainer = make(case, step_mode=mode, device="cpu", **CAPTURED[name])
        set_seed(5)
        run(trainer, case.data)
        trained.append(trainer)
    eager, captured = trained
    assert captured.step_report.choice == "capture"
    states = (each.model.state_dict().values() for each in trained)
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for network in eager.optimizer:
        metric = f"train_{network}_loss_epoch"
        losses = [list(each.run_history.get_metric_values(metric)) for each in trained]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_what_cannot_be_captured_says_why() -> None:
    trainer = make(CASES["wgan-gp"], step_mode="capture", device="cpu")
    with pytest.raises(NotSupportedError, match="DcganTrainer has to run in the middle of a step"):
        run(trainer, CASES["wgan-gp"].data)

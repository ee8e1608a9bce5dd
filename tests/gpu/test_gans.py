"""Steps of networks that play against each other, as CUDA graphs on the device itself."""

from typing import Any

import pytest
import torch

from loopwright.models import aae, dcgan, pix2pix, semi_supervised_aae
from loopwright.trainers import (
    AdversarialAutoencoderTrainer,
    DcganTrainer,
    Pix2PixTrainer,
    SemiSupervisedAaeInferrer,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPE = [1, 16, 16]
CASES: dict[str, tuple[Any, Any]] = {
    "dcgan": (DcganTrainer, lambda: dcgan(SHAPE, code_size=8, width=8, ema_decay=0.9)),
    "aae": (AdversarialAutoencoderTrainer, lambda: aae(SHAPE, hidden=[32], discriminator=[16])),
    "pix2pix": (Pix2PixTrainer, lambda: pix2pix(SHAPE, width=8, discriminator_layers=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_captured_steps_are_those_of_eager(name: str) -> None:
    kind, make_model = CASES[name]
    images = torch.rand(2, 96, *SHAPE, generator=torch.Generator().manual_seed(0))
    data = tuple(images) if name == "pix2pix" else images[0]
    histories = []
    for mode in ("eager", "capture"):
        torch.manual_seed(0)
        model = make_model().cuda()
        optimizers = {
            network: torch.optim.Adam(parameters, lr=1e-3, eps=1e-3, fused=True)
            for network, parameters in model.parameters_by_optimizer().items()
        }
        trainer = kind(model, None, optimizers, callbacks=(), device="cuda", seed=1, step_mode=mode)
        torch.cuda.manual_seed(3)
        trainer.train(data, num_epochs=3, per_device_batch_size=16)
        assert trainer.step_report is not None
        assert trainer.step_report.choice == mode
        history = trainer.run_history
        names = sorted(history.get_metric_names())
        histories.append([list(history.get_metric_values(each)) for each in names])
    for one, other in zip(*histories, strict=True):
        assert other == pytest.approx(one, rel=1e-3)


def test_samples_are_made_of_labels_on_any_device() -> None:
    model = semi_supervised_aae(SHAPE, 3, hidden=[32], discriminator=[16]).cuda()
    inferrer, labels = SemiSupervisedAaeInferrer.of(model), torch.tensor([0, 1, 2])
    expected = inferrer.generate(3, seed=0, labels=labels)
    assert torch.equal(inferrer.generate(3, seed=0, labels=labels.cuda()), expected)

"""Autoencoders: their losses, their trainers beside plain loops, and using what was trained."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import global_states, same, weights
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.datasets import Array
from loopwright.models import autoencoder, build_model, vae
from loopwright.seed import set_seed
from loopwright.trainers import (
    AutoencoderInferrer,
    AutoencoderTrainer,
    DenoisingAutoencoderTrainer,
    VaeTrainer,
    corrupt,
    gaussian_kl,
    negative_elbo,
    reconstruction_loss,
)

DATA = Path(os.environ.get("LOOPWRIGHT_DATA", Path(__file__).parents[3] / "shared" / "data"))


def samples(count: int = 12) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def seeded(make: Callable[..., Any], seed: int = 0, **arguments: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make([1, 4, 4], **arguments)


def make(kind: Any, model: nn.Module, **options: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return kind(model, None, optimizer, **{"callbacks": (), "seed": 3} | options)


def test_the_losses_are_those_of_their_distributions() -> None:
    """Means over samples, in nats."""
    x, logits = samples(5), torch.randn(5, 1, 4, 4)
    expected = -Bernoulli(logits=logits, validate_args=False).log_prob(x).sum() / 5
    torch.testing.assert_close(reconstruction_loss(logits, x), expected)
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    posterior = Normal(mean, (log_variance / 2).exp())
    divergence = kl_divergence(posterior, Normal(torch.zeros(3), torch.ones(3))).sum() / 5
    torch.testing.assert_close(gaussian_kl(mean, log_variance), divergence)
    outputs = (logits, mean, log_variance)
    torch.testing.assert_close(negative_elbo(outputs, x, 0.5), expected + 0.5 * divergence)
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_corruption() -> None:
    x = torch.ones(2000)
    torch.manual_seed(0)
    assert corrupt(x, 0.3, 0.0).std() == pytest.approx(0.3, abs=0.02)
    masked = corrupt(x, 0.0, 0.25)
    assert set(masked.tolist()) == {0.0, 1.0}
    assert (masked == 0).float().mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_the_networks_fit_the_data(name: str) -> None:
    features = Array((1, 4, 4), torch.float32)
    arguments = {"code_size": 3, "hidden": [8, 5]}
    model: Any = build_model(name, arguments, features=features, labels=features)
    outputs = model(samples(6))
    logits = outputs[0] if name == "vae" else outputs
    assert logits.shape == (6, 1, 4, 4)
    assert model.encode(samples(6)).shape == (6, 3)
    assert model.decode(torch.zeros(6, 3)).shape == (6, 1, 4, 4)
    with pytest.raises(ValueError, match=r"hidden\[0\] is 0"):
        build_model(name, {"hidden": [0]}, features=features, labels=features)


def plain_losses(model: Any, batches: Any, loss_of: Callable[[Any, Tensor], Tensor]) -> list[float]:
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for x in batches:
        loss = loss_of(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def denoised(model: Any, x: Tensor) -> Tensor:
    return reconstruction_loss(model(x + 0.2 * torch.randn_like(x)), x)


CASES = [
    (AutoencoderTrainer, autoencoder, {}, lambda model, x: reconstruction_loss(model(x), x)),
    (DenoisingAutoencoderTrainer, autoencoder, {"noise": 0.2}, denoised),
    (VaeTrainer, vae, {"beta": 0.7}, lambda model, x: negative_elbo(model(x), x, 0.7)),
]


@pytest.mark.parametrize(("kind", "network", "options", "loss_of"), CASES)
def test_training_is_that_of_a_plain_loop(
    kind: Any, network: Any, options: dict[str, Any], loss_of: Any
) -> None:
    """The same weights, to the bit, with draws from the global generator included."""
    x = samples(12)
    plain, ours = seeded(network, hidden=[8]), seeded(network, hidden=[8])
    set_seed(5)
    losses = plain_losses(plain, [*x.split(4), *x.split(4)], loss_of)
    trainer = make(kind, ours, **options)
    set_seed(5)
    trainer.train(x, 2, per_device_batch_size=4, train_dataloader_kwargs={"shuffle": False})
    assert same(plain.parameters(), ours.parameters())
    recorded = trainer.run_history.get_metric_values("train_loss_epoch")
    assert recorded == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])])


@pytest.mark.parametrize("data", [samples(10), (samples(10), torch.zeros(10))])
def test_targets_are_ignored(data: Any) -> None:
    trainer = make(AutoencoderTrainer, seeded(autoencoder, hidden=[8]))
    trainer.train(data, 1, eval_dataset=data, per_device_batch_size=4)
    x = samples(10)
    with torch.no_grad():
        expected = reconstruction_loss(trainer.model(x), x)
    assert trainer.run_history.get_latest_metric("eval_loss_epoch") == pytest.approx(
        float(expected)
    )


def test_evaluation_leaves_the_random_state() -> None:
    trainer = make(VaeTrainer, seeded(vae))
    before = global_states()
    trainer.evaluate(samples(8))
    assert global_states() == before


def test_an_own_loss_gets_outputs_and_samples() -> None:
    model = seeded(autoencoder, hidden=[8])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = AutoencoderTrainer(model, nn.functional.mse_loss, optimizer, callbacks=())
    trainer.evaluate(samples(8), per_device_batch_size=8)
    expected = nn.functional.mse_loss(model(samples(8)), samples(8)).item()
    assert trainer.run_history.get_latest_metric("evaluation_loss") == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "network", "options", "loss_of"), CASES)
def test_a_run_goes_on_exactly(
    tmp_path: Path, kind: Any, network: Any, options: dict[str, Any], loss_of: Any
) -> None:
    """From a checkpoint in the middle of an epoch, with accumulation and clipping."""
    settings = {"per_device_batch_size": 2, "gradient_accumulation_steps": 2}
    settings["gradient_clip_norm"] = 1.0
    folder = {"run_dir": tmp_path / "whole", "checkpoint": CheckpointPolicy(every_steps=2)}
    whole = make(kind, seeded(network, hidden=[8]), **options, **folder)
    set_seed(5)
    whole.train(samples(12), 3, **settings)
    paths = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    inside = [path for path in paths if path.name.startswith("step-")][0]
    resumed = make(kind, seeded(network, seed=9, hidden=[8]), **options)
    set_seed(6)
    resumed.train(samples(12), 3, **settings, resume=inside)
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (DenoisingAutoencoderTrainer, {"noise": 0.0}, "noise=0.0, masked=0.0"),
        (DenoisingAutoencoderTrainer, {"masked": 1.0}, "masked=1.0"),
        (VaeTrainer, {"beta": -1.0}, "beta=-1.0 has to be 0 or greater"),
    ],
)
def test_options_are_checked(kind: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, seeded(autoencoder), **options)


def test_using_what_was_trained() -> None:
    model = seeded(vae, code_size=3)
    inferrer, x = AutoencoderInferrer(model), samples(5)
    with torch.no_grad():
        codes = model.encode(x)
        expected = torch.sigmoid(model.decode(codes))
    assert torch.equal(inferrer.encode(x), codes)
    assert torch.equal(inferrer.reconstruct(x), expected)
    between = inferrer.interpolate(x[0], x[1], steps=4)
    assert between.shape == (4, 1, 4, 4)
    torch.testing.assert_close(between[[0, -1]], expected[:2])
    made = inferrer.generate(6, seed=1)
    assert made.shape == (6, 1, 4, 4)
    assert torch.equal(made, inferrer.generate(6, seed=1))
    assert ((made >= 0) & (made <= 1)).all()


def mnist(part: str, count: int) -> Tensor:
    path = DATA / "mnist" / f"{part}-images-idx3-ubyte.gz"
    if not path.is_file():
        pytest.skip(f"needs MNIST at {path.parent} (or below LOOPWRIGHT_DATA)")
    with gzip.open(path) as file:
        pixels = np.frombuffer(file.read(), dtype=np.uint8, offset=16)
    images = pixels.reshape(-1, 1, 28, 28)[:count].astype(np.float32) / 255
    return torch.from_numpy(images)


def plain_vae_loss(model: Any, x: Tensor) -> Tensor:
    mean, log_variance = model.encoder(x).chunk(2, dim=1)
    code = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
    logits = model.decoder(code).view_as(x)
    bce = binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return (bce + kl) / len(x)


def plain_autoencoder_loss(model: Any, x: Tensor, noise: float = 0.0) -> Tensor:
    inputs = x + noise * torch.randn_like(x)
    logits = model.decoder(model.encoder(inputs)).view_as(x)
    return binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def plain_script(model: Any, train: Tensor, test: Tensor, loss_of: Any) -> float:
    """Train as an example of PyTorch does, with its own order, and return the loss of the test."""
    torch.manual_seed(77)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(train, batch_size=100, shuffle=True)  # type: ignore[arg-type]
    for _ in range(3):
        for x in loader:
            optimizer.zero_grad()
            loss_of(model, x).backward()
            optimizer.step()
    with torch.no_grad():
        return float(loss_of(model, test))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "network", "options", "loss_of"),
    [
        (AutoencoderTrainer, autoencoder, {}, plain_autoencoder_loss),
        (
            DenoisingAutoencoderTrainer,
            autoencoder,
            {"noise": 0.3},
            lambda model, x: plain_autoencoder_loss(model, x, 0.3),
        ),
        (VaeTrainer, vae, {}, plain_vae_loss),
    ],
    ids=["autoencoder", "denoising", "vae"],
)
def test_mnist_as_by_a_plain_script(
    kind: Any, network: Any, options: dict[str, Any], loss_of: Any
) -> None:
    """On real digits the loss (of the VAE: the ELBO) is within 2 % of a plain script's."""
    train, test = mnist("train", 6000), mnist("t10k", 2000)
    networks = []
    for _ in range(2):
        torch.manual_seed(1)
        networks.append(network([1, 28, 28], hidden=[200]))
    expected = plain_script(networks[0], train, test, loss_of)
    optimizer = torch.optim.Adam(networks[1].parameters(), lr=1e-3)
    trainer = kind(networks[1], None, optimizer, callbacks=(), seed=5, **options)
    torch.manual_seed(5)
    trainer.train(train, 3, eval_dataset=test, per_device_batch_size=100)
    found = trainer.run_history.get_latest_metric("eval_loss_epoch")
    assert found == pytest.approx(expected, rel=0.02)
    untrained = float(loss_of(network([1, 28, 28], hidden=[200]), test).detach())
    assert found < untrained / 2

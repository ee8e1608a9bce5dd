"""What GANs and their kin reach on MNIST, beside plain PyTorch scripts of the same budget.

Run ``python benchmarks/gans.py --data FOLDER``, where FOLDER holds MNIST's four original
files: prints one Markdown table. On either side stand the same networks, first weights, order of
data and random draws; the scripts use nothing of loopwright but the networks and that order.
Distances are Fréchet's, between the features of 2,000 made and 10,000 real digits in a classifier
that is trained here first. ``--epochs 1 --images 600 --seeds 1`` is a quick look.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from loopwright.data import epoch_order
from loopwright.datasets import find_edges
from loopwright.models import aae, dcgan, pix2pix
from loopwright.trainers import (
    AdversarialAutoencoderTrainer,
    AutoencoderInferrer,
    DcganInferrer,
    DcganTrainer,
    Pix2PixInferrer,
    Pix2PixTrainer,
)

SHAPE, BATCH, NUM_MADE = [1, 28, 28], 64, 2000
Batches = Callable[[], Iterator[tuple[Tensor, ...]]]


def read_mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Returns images [N, 1, 28, 28], values from 0 to 1, and digits [N]."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, *SHAPE)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        digits = np.frombuffer(file.read(), dtype=np.uint8, offset=8)
    images = torch.from_numpy(pixels.astype(np.float32) / 255)
    return images, torch.from_numpy(digits.astype(np.int64))


class Judge:
    """Classifies digits, and says how far made ones are from real ones."""

    def __init__(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)
        optimizer = torch.optim.Adam([*self.features.parameters(), *self.head.parameters()])
        for _ in range(4):
            for rows in torch.randperm(20_000).split(100):
                loss = f.cross_entropy(self.head(self.features(train[0][rows])), train[1][rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.real = self._moments(test[0])
        self.accuracy = (self.classify(test[0]) == test[1]).double().mean().item()

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Returns the likeliest digits."""
        return self.head(self.features(images)).argmax(dim=1)

    @torch.no_grad()
    def _moments(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        features = self.features(images).double().numpy()
        return features.mean(axis=0), np.cov(features, rowvar=False)

    def distance(self, images: Tensor) -> float:
        """Returns Fréchet's distance to the real digits."""
        (mean, covariance), (real_mean, real_covariance) = self._moments(images), self.real
        roots = np.sqrt(np.linalg.eigvals(covariance @ real_covariance).real.clip(min=0)).sum()
        spread = np.trace(covariance) + np.trace(real_covariance) - 2 * roots
        return float(((mean - real_mean) ** 2).sum() + spread)

    def rarest(self, images: Tensor) -> float:
        """Returns the share of the digit that is least among made ones."""
        return torch.bincount(self.classify(images), minlength=10).min().item() / len(images)


def adam(parameters: Any) -> torch.optim.Optimizer:
    """Returns DCGAN's optimizer."""
    return torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999))


def bce(logits: Tensor, target: float) -> Tensor:
    """Returns the cross entropy of logits and one target."""
    return f.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Updates from a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def plain_dcgan(model: Any, batches: Batches) -> None:
    """Trains a DCGAN."""
    d, g = adam(model.discriminator.parameters()), adam(model.generator.parameters())
    for (x,) in batches():
        made = model.generator(torch.randn(len(x), model.code_size))
        step(d, bce(model.discriminator(x), 1.0) + bce(model.discriminator(made.detach()), 0.0))
        step(g, bce(model.discriminator(made), 1.0))


def plain_aae(model: Any, batches: Batches) -> None:
    """Trains an adversarial autoencoder."""
    both = adam([*model.encoder.parameters(), *model.decoder.parameters()])
    d, e = adam(model.discriminator.parameters()), adam(model.encoder.parameters())
    for (x,) in batches():
        logits = model.decoder(model.encoder(x)).view_as(x)
        step(both, f.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x))
        codes = model.encoder(x)
        drawn = model.discriminator(torch.randn_like(codes))
        step(d, bce(drawn, 1.0) + bce(model.discriminator(codes.detach()), 0.0))
        step(e, bce(model.discriminator(codes), 1.0))


def plain_pix2pix(model: Any, batches: Batches) -> None:
    """Trains pix2pix."""
    d, g = adam(model.discriminator.parameters()), adam(model.generator.parameters())
    for source, target in batches():
        made = model.generator(source)
        real = model.discriminator(torch.cat([source, target], dim=1))
        fake = model.discriminator(torch.cat([source, made.detach()], dim=1))
        step(d, 0.5 * (bce(real, 1.0) + bce(fake, 0.0)))
        fake = model.discriminator(torch.cat([source, made], dim=1))
        step(g, bce(fake, 1.0) + 100 * f.l1_loss(made, target))


def make_dcgan() -> Any:
    """Returns the networks of the DCGAN."""
    return dcgan(SHAPE, code_size=32, width=16)


def make_aae() -> Any:
    """Returns the networks of the adversarial autoencoder."""
    return aae(SHAPE, code_size=8, hidden=[256, 128], discriminator=[128, 128])


def make_pix2pix() -> Any:
    """Returns the networks of pix2pix."""
    return pix2pix(SHAPE, width=16, discriminator_layers=2)


OBJECTIVES: dict[str, tuple[Any, Any, Any, int]] = {
    "dcgan": (DcganTrainer, make_dcgan, plain_dcgan, 8),
    "aae": (AdversarialAutoencoderTrainer, make_aae, plain_aae, 16),
    "pix2pix": (Pix2PixTrainer, make_pix2pix, plain_pix2pix, 2),
}


def measure(name: str, model: Any, test: tuple[Tensor, ...], judge: Judge) -> dict[str, float]:
    """Returns the figures of a trained model."""
    if name == "pix2pix":
        made = Pix2PixInferrer(model).translate(test[0])
        right = (judge.classify(made) == judge.classify(test[1])).double().mean().item()
        distance = (made - test[1]).abs().mean().item()
        return {"L1": distance, "same digit": right, "distance": judge.distance(made)}
    inferrer: Any = {"dcgan": DcganInferrer, "aae": AutoencoderInferrer}[name](model)
    made = inferrer.generate(NUM_MADE, seed=0)
    return {"distance": judge.distance(made), "rarest digit": judge.rarest(made)}


def compare(name: str, data: Any, test: Any, judge: Judge, epochs: int | None, seed: int) -> str:
    """Trains both, and returns a row for each figure."""
    kind, make, script, usual = OBJECTIVES[name]
    epochs = epochs or usual
    torch.manual_seed(seed)
    plain = make()
    torch.manual_seed(seed)
    model = make()

    def batches() -> Iterator[tuple[Tensor, ...]]:
        for epoch in range(1, epochs + 1):
            for rows in epoch_order(len(data[0]), seed, epoch).split(BATCH):
                yield tuple(part[rows] for part in data)

    torch.manual_seed(seed + 100)
    script(plain, batches)
    parameters = model.parameters_by_optimizer().items()
    optimizers = {each: adam(trained) for each, trained in parameters}
    trainer = kind(model, None, optimizers, callbacks=(), seed=seed)
    torch.manual_seed(seed + 100)
    trainer.train(data if name == "pix2pix" else data[0], epochs, per_device_batch_size=BATCH)
    pairs = zip(plain.state_dict().values(), model.state_dict().values(), strict=True)
    is_same = all(torch.equal(one, other) for one, other in pairs)
    figures = [measure(name, each, test, judge) for each in (plain, model)]
    return "".join(
        f"| {name}, {epochs} epochs | {seed} | {key} | "
        f"{figures[0][key]:.4g} | {figures[1][key]:.4g} | "
        f"{figures[1][key] / (figures[0][key] or float('nan')):.4f} | "
        f"{'yes' if is_same else 'no'} |\n"
        for key in figures[0]
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, help="by default 8, 16 and 2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = read_mnist(options.data, "train"), read_mnist(options.data, "t10k")
    judge = Judge(train, test)
    images = train[0][: options.images]
    print(f"torch {torch.__version__}, one thread; {options.images} images, "
          f"batches of {BATCH}. The classifier is right about {judge.accuracy:.1%} of the "
          f"real digits; their distance to {NUM_MADE} real digits of the training part is "
          f"{judge.distance(train[0][-NUM_MADE:]):.3g}.\n")  # fmt: skip
    print("| objective | seed | figure | plain script | loopwright | ratio | same weights |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.objectives:
        is_pair = name == "pix2pix"
        data = (find_edges(images), images) if is_pair else (images,)
        shown = (find_edges(test[0]), test[0]) if is_pair else test
        for seed in range(options.seeds):
            row = compare(name, data, shown, judge, options.epochs, seed)
            print(row, end="", flush=True)


if __name__ == "__main__":
    main()

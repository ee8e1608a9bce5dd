"""What trainers by objective reach, beside plain PyTorch scripts of the same network and budget.

Run ``python benchmarks/objectives.py --tasks vae language_model`` where loopwright is
installed, on one core: prints one Markdown table. MNIST and tinyshakespeare.txt are read from the
folder that LOOPWRIGHT_DATA names. Scripts and trainers draw their own orders of samples, from
several seeds; the last columns are means over them with their standard errors.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from loopwright.datasets import TextFiles
from loopwright.experiment import Experiment
from loopwright.models import gpt, vae
from loopwright.trainers import LanguageModelTrainer, VaeTrainer

EXAMPLES = Path(__file__).parents[1] / "examples"
DATA = Path(os.environ.get("LOOPWRIGHT_DATA", "."))
Pairs = tuple[Tensor, ...]
Loss = Callable[[Any, Pairs], Tensor]


def mnist(part: str) -> Pairs:
    """Return images [count, 1, 28, 28] with values from 0 to 1."""
    with gzip.open(DATA / "mnist" / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), dtype=np.uint8, offset=16)
    return (torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.float32) / 255),)


def shakespeare() -> tuple[Pairs, Pairs, int]:
    """Return blocks of 64 characters with what follows, the first 90 % and the rest."""
    source = TextFiles(str(DATA / "tinyshakespeare.txt"), block_length=64)
    tokens, following = source.tensors()
    assert isinstance(tokens, Tensor)
    first = len(tokens) * 9 // 10
    train, held_out = (tokens[:first], following[:first]), (tokens[first:], following[first:])
    return train, held_out, source.labels_info.num_classes


def plain_elbo(model: Any, batch: Pairs) -> Tensor:
    """Return the negative evidence lower bound, a mean over samples in nats."""
    (x,) = batch
    mean, log_variance = model.encoder(x).chunk(2, dim=1)
    code = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
    logits = model.decoder(code).view_as(x)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return (cross_entropy + divergence) / len(x)


def plain_next_token(model: Any, batch: Pairs) -> Tensor:
    """Return the cross entropy of the tokens that follow, a mean over them in nats."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def plain_script(
    model: Any, train: Pairs, held_out: Pairs, loss_of: Loss, epochs: int, lr: float, seed: int
) -> float:
    """Train as a script would, and return the loss on what was held out."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    loader = DataLoader(TensorDataset(*train), batch_size=100, shuffle=True)
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    total = 0.0
    with torch.no_grad():
        for batch in DataLoader(TensorDataset(*held_out), batch_size=500):
            total += loss_of(model, batch).item() * len(batch[0])
    return total / len(held_out[0])


def trained(
    kind: Any, model: Any, train: Pairs, held_out: Pairs, epochs: int, lr: float, seed: int
) -> float:
    """Train with a trainer by objective, and return the loss on what was held out."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    trainer = kind(model, None, optimizer, callbacks=(), seed=seed)
    trainer.train(train, epochs, per_device_batch_size=100)
    trainer.evaluate(held_out, per_device_batch_size=500)
    return float(trainer.run_history.get_latest_metric("evaluation_loss"))


def compare(
    name: str, kind: Any, make: Callable[[], Any], data: tuple[Pairs, Pairs], loss_of: Loss,
    epochs: int, lr: float, num_seeds: int,
) -> str:  # fmt: skip
    """Return a row: the loss of scripts, of trainers, and how far apart they are."""
    losses: list[list[float]] = [[], []]
    for seed in range(num_seeds):
        models = []
        for _ in range(2):
            torch.manual_seed(seed)
            models.append(make())
        losses[0].append(plain_script(models[0], *data, loss_of, epochs, lr, seed + 100))
        losses[1].append(trained(kind, models[1], *data, epochs, lr, seed + 200))
    script, ours = (statistics.mean(values) for values in losses)
    errors = [statistics.stdev(values) / num_seeds**0.5 for values in losses]
    shown = [
        f"{value:.4f} ± {error:.4f}" for value, error in zip((script, ours), errors, strict=True)
    ]
    return f"| {name} | {shown[0]} | {shown[1]} | {100 * (ours / script - 1):+.2f} % |"


def example(name: str) -> str:
    """Return a row: the share of held-out sequences that an example translates exactly."""
    began, here = time.process_time(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            results = Experiment.from_yaml(EXAMPLES / f"{name}.yaml").train(verbose=False)
        finally:
            os.chdir(here)
    share, seconds = results["metrics"]["test_exact_match"], time.process_time() - began
    return f"| examples/{name}.yaml: exact match, {seconds:.0f} s of CPU | | {share:.3f} | |"


def row(name: str, epochs: int, num_seeds: int) -> str:
    """Return the row of a task."""
    if name == "vae":
        data = mnist("train"), mnist("t10k")
        task = "VAE on MNIST: negative ELBO"
        return compare(
            task, VaeTrainer, lambda: vae([1, 28, 28]), data, plain_elbo, epochs, 1e-3, num_seeds
        )
    if name == "language_model":
        train, held_out, size = shakespeare()

        def make() -> Any:
            return gpt((64,), size, width=64, heads=4, layers=2)

        task = "characters of tinyshakespeare: loss"
        return compare(
            task, LanguageModelTrainer, make, (train, held_out), plain_next_token, epochs, 3e-3,
            num_seeds,
        )  # fmt: skip
    return example(name)


def main() -> None:
    """Print the table."""
    tasks = ("vae", "language_model", "reversal", "addition")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=tasks)
    parser.add_argument("--epochs", type=int, default=3, help="of the comparisons")
    parser.add_argument("--seeds", type=int, default=3, help="of the comparisons; two or more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | plain script | loopwright | difference |\n|---|--:|--:|--:|", flush=True)
    for name in arguments.tasks:
        print(row(name, arguments.epochs, arguments.seeds), flush=True)


if __name__ == "__main__":
    main()

"""What trainers of sequences reach: a language model beside a plain script, and exact matches.

Run ``python benchmarks/sequences.py --data FOLDER`` where loopwright is installed, on one core:
prints one Markdown table. FOLDER holds tinyshakespeare.txt. Script and trainer have the same
network, first weights and budget, and draw their own orders of samples, from several seeds; shown
are means over those with their standard errors. The examples train as they stand.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from loopwright.datasets import TextFiles
from loopwright.experiment import Experiment
from loopwright.models import gpt
from loopwright.trainers import LanguageModelTrainer

EXAMPLES = Path(__file__).parents[1] / "examples"
LENGTH, BATCH, RATE = 64, 100, 3e-3
Pair = tuple[Tensor, Tensor]


def read_text(path: Path) -> tuple[Pair, Pair, int]:
    """Return blocks of characters with what follows, the first 90 % and the rest, and the kinds."""
    source = TextFiles(str(path), block_length=LENGTH)
    tokens, following = source.tensors()
    assert isinstance(tokens, Tensor)
    first = len(tokens) * 9 // 10
    train, held_out = (tokens[:first], following[:first]), (tokens[first:], following[first:])
    return train, held_out, source.labels_info.num_classes


def plain_script(model: nn.Module, train: Pair, held_out: Pair, epochs: int, seed: int) -> float:
    """Train as a script would, and return the loss on what was held out, in nats a character."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for tokens, following in DataLoader(TensorDataset(*train), BATCH, shuffle=True):
            optimizer.zero_grad()
            functional.cross_entropy(model(tokens), following).backward()
            optimizer.step()
    total = 0.0
    with torch.no_grad():
        for tokens, following in DataLoader(TensorDataset(*held_out), 500):
            total += functional.cross_entropy(model(tokens), following).item() * len(tokens)
    return total / len(held_out[0])


def trained(model: nn.Module, train: Pair, held_out: Pair, epochs: int, seed: int) -> float:
    """Train with the trainer, and return the loss on what was held out, in nats a character."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    trainer = LanguageModelTrainer(model, None, optimizer, callbacks=(), seed=seed)
    trainer.train(train, epochs, per_device_batch_size=BATCH)
    trainer.evaluate(held_out, per_device_batch_size=500)
    return float(trainer.run_history.get_latest_metric("evaluation_loss"))


def compare(path: Path, epochs: int, num_seeds: int) -> str:
    """Return a row: the loss of scripts, of trainers, and how far apart they are."""
    train, held_out, size = read_text(path)
    losses: list[list[float]] = [[], []]
    for seed in range(num_seeds):
        for kept, run, offset in zip(losses, (plain_script, trained), (100, 200), strict=True):
            torch.manual_seed(seed)
            model = gpt((LENGTH,), size, width=64, heads=4, layers=2)
            kept.append(run(model, train, held_out, epochs, seed + offset))
    means = [statistics.mean(values) for values in losses]
    errors = [statistics.stdev(values) / num_seeds**0.5 for values in losses]
    shown = " | ".join(f"{m:.4f} ± {e:.4f}" for m, e in zip(means, errors, strict=True))
    return f"| tinyshakespeare: loss | {shown} | {100 * (means[1] / means[0] - 1):+.2f} % |"


def example(name: str) -> str:
    """Return a row: the share of held-out sequences that an example translates exactly."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        results = Experiment.from_yaml(EXAMPLES / f"{name}.yaml").train(folder, verbose=False)
    share, seconds = results["metrics"]["test_exact_match"], time.process_time() - began
    return f"| examples/{name}.yaml: exact match, {seconds:.0f} s of CPU | | {share:.3f} | |"


def main() -> None:
    """Print the table."""
    tasks = ("language_model", "reversal", "addition")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=tasks)
    parser.add_argument("--epochs", type=int, default=3, help="of the language model")
    parser.add_argument("--seeds", type=int, default=3, help="of the language model; two or more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | plain script | loopwright | difference |\n|---|--:|--:|--:|", flush=True)
    for name in arguments.tasks:
        if name == "language_model":
            path = arguments.data / "tinyshakespeare.txt"
            print(compare(path, arguments.epochs, arguments.seeds), flush=True)
        else:
            print(example(name), flush=True)


if __name__ == "__main__":
    main()

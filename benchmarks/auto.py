"""What `step_mode="auto"` gains and costs on ten small models, against eager, on one CPU core.

Run ``python benchmarks/auto.py``: prints one Markdown table. Each model trains for as many steps as
eager takes in ``--seconds`` (60), in fresh processes that take turns: eager, auto with an empty
cache, auto with the decisions and programs of the run before. A ratio is the median over the
``--pairs`` (5) of such turns, of whole times, choosing and compiling included; beside it in
brackets the same of CPU time, compilers included, which other work on the machine disturbs less.

With ``--results FILE`` each turn is appended to a file as it ends, and what the file has is not
measured again: ``--minutes 20`` stops before a turn that would not fit, and the same command goes
on later. All models get their first turn before any gets its second. ``--seconds 20 --pairs 1
--models mlp lstm`` is a quick look.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environment


def models() -> dict[str, tuple[Callable[[], Any], tuple[int, ...], int]]:
    """Returns by name: what makes the model, the shape of a sample, the batch size."""
    from torch import nn

    class Sequence(nn.Module):
        """Reads 32 tokens, and averages over them."""

        def __init__(self, body: nn.Module, width: int) -> None:
            super().__init__()
            self.embed, self.body, self.head = nn.Embedding(65, width), body, nn.Linear(width, 10)

        def forward(self, tokens: Any) -> Any:
            """Returns scores of ten classes."""
            states = self.body(self.embed(tokens))
            states = states[0] if isinstance(states, tuple) else states
            return self.head(states.mean(1))

    def mlp(*widths: int, dropout: float = 0.0, norm: bool = False) -> nn.Module:
        layers: list[nn.Module] = []
        for number, (one, other) in enumerate(zip(widths, widths[1:], strict=False)):
            layers.append(nn.Linear(one, other))
            if number < len(widths) - 2:
                layers += [nn.BatchNorm1d(other)] * norm + [nn.ReLU()]
                layers += [nn.Dropout(dropout)] * bool(dropout)
        return nn.Sequential(*layers)

    def cnn(*channels: int) -> nn.Module:
        layers: list[nn.Module] = []
        for one, other in zip((1, *channels), channels, strict=False):
            layers += [nn.Conv2d(one, other, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        size = channels[-1] * (28 // 2 ** len(channels)) ** 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 10))

    def transformer(width: int, layers: int, dropout: float) -> nn.Module:
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True)
        return Sequence(nn.TransformerEncoder(layer, layers), width)

    tokens, image = (32,), (1, 28, 28)
    return {
        "mlp": (lambda: mlp(32, 64, 10), (32,), 64),
        "mlp, wide": (lambda: mlp(784, 128, 10), (784,), 64),
        "mlp, deep": (lambda: mlp(32, 64, 64, 64, 64, 10, norm=True), (32,), 64),
        "mlp, dropout": (lambda: mlp(64, 128, 128, 10, dropout=0.2), (64,), 32),
        "cnn": (lambda: cnn(16, 32), image, 64),
        "cnn, tiny": (lambda: cnn(4, 8), image, 16),
        "cnn, deep": (lambda: cnn(8, 16, 32), image, 32),
        "transformer": (lambda: transformer(64, 1, 0.0), tokens, 32),
        "transformer, dropout": (lambda: transformer(32, 2, 0.1), tokens, 16),
        "lstm": (lambda: Sequence(nn.LSTM(64, 64, batch_first=True), 64), tokens, 32),
    }


Turn = dict[str, Any]


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of eager training")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--models", nargs="+", metavar="NAME")
    parser.add_argument("--results", type=Path, metavar="FILE", help="turns as lines of JSON")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="to measure for")
    parser.add_argument("--here", action="store_true", help="use this very Python")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        name, mode, steps = arguments.child
        if mode == "probe":
            train(name, mode := "eager", 50)  # imports, and whatever else is done once
        print(json.dumps(train(name, mode, int(steps))))
        return
    if not arguments.here:
        environment.enter()
    names = arguments.models or list(models())
    turns = measure(names, arguments)
    print_table(names, turns)


def measure(names: list[str], arguments: argparse.Namespace) -> list[Turn]:
    """Returns the turns that a file has, and those that it lacks, measured and added to it."""
    file, seconds, pairs = arguments.results, arguments.seconds, arguments.pairs
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
    turns = [turn for turn in map(json.loads, lines) if turn["asked"] == seconds]
    end = time.monotonic() + 60 * arguments.minutes
    for number, name in itertools.product(range(pairs), names):
        known = [turn for turn in turns if turn["model"] == name]
        if len(known) > number:
            continue
        if time.monotonic() + 3.2 * seconds > end:  # three trainings, and what comes before them
            print(f"stopped before turn {number + 1} of {name}", file=sys.stderr)
            break
        steps = known[0]["steps"] if known else steps_in(name, seconds)
        turns.append({"model": name, "asked": seconds, "steps": steps} | take_turn(name, steps))
        if file:
            with file.open("a", encoding="utf-8") as results:
                results.write(json.dumps(turns[-1]) + "\n")
        print(f"{name}: turn {number + 1} of {pairs}", file=sys.stderr, flush=True)
    return turns


def steps_in(name: str, seconds: float) -> int:
    """Returns how many steps eager takes in so many seconds."""
    probe = run(name, "probe", 400, None)
    return max(400, int(400 * seconds / probe["seconds"]))


def take_turn(name: str, steps: int) -> Turn:
    """Trains three times: eager, auto with an empty cache, auto with a full one."""
    with tempfile.TemporaryDirectory() as cache:
        modes = {"eager": "eager", "cold": "auto", "cached": "auto"}
        return {each: run(name, mode, steps, cache) for each, mode in modes.items()}


def print_table(names: list[str], turns: list[Turn]) -> None:
    """Prints a line for each model that was measured, and how many of them keep to the bars."""
    print("| model | steps | turns | cold / eager | cached / eager | choice, cold, then cached |")
    print("|---|--:|--:|--:|--:|---|")
    colds, cacheds = [], []
    for name in names:
        own = [turn for turn in turns if turn["model"] == name]
        if not own:
            continue
        ratios = []
        for kind, every in (("cold", colds), ("cached", cacheds)):
            wall, cpu = (
                statistics.median(turn[kind][clock] / turn["eager"][clock] for turn in own)
                for clock in ("seconds", "cpu_seconds")
            )
            every.append(wall)
            ratios.append(f"{wall:.2f} ({cpu:.2f})")
        last = own[-1]
        choices = (f"{last[kind]['choice']}: {last[kind]['reason']}" for kind in ("cold", "cached"))
        cells = (name, f"{last['steps']:,}", str(len(own)), *ratios, "; ".join(choices))
        print(f"| {' | '.join(cells)} |")
    print(
        f"\ncold at most 1.20: {sum(each <= 1.2 for each in colds)} of {len(colds)}; cached at "
        f"most 1.05: {sum(each <= 1.05 for each in cacheds)} of {len(cacheds)}; cached 1.2 times "
        f"faster or more: {sum(1 / each >= 1.2 for each in cacheds)}"
    )


def run(name: str, mode: str, steps: int, cache: str | None) -> dict[str, Any]:
    """Trains in a fresh process."""
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    if cache is not None:
        settings["XDG_CACHE_HOME"] = cache
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name, mode, str(steps)]
    done = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def train(name: str, mode: Any, steps: int) -> dict[str, Any]:
    """Trains so many steps on drawn data; returns the seconds and what was chosen."""
    import torch
    from torch import nn

    from loopwright.trainer import Trainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, shape, batch_size = models()[name]
    samples = 64 * batch_size
    is_text = shape == (32,) and name.startswith(("transformer", "lstm"))
    inputs = torch.randint(0, 65, (samples, *shape)) if is_text else torch.randn(samples, *shape)
    targets = torch.randint(0, 10, (samples,))
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, (), device="cpu", step_mode=mode)
    began, cpu_began = time.perf_counter(), cpu_seconds()
    data = (inputs, targets)
    trainer.train(data, None, per_device_batch_size=batch_size, max_num_train_steps=steps)
    seconds, used = time.perf_counter() - began, cpu_seconds() - cpu_began
    report = trainer.step_report
    assert report is not None
    about = {"choice": report.choice, "reason": report.reason}
    return {"seconds": seconds, "cpu_seconds": used, **about}


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of the compilers that it started."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()

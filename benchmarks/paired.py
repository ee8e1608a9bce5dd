"""loopwright against the hand-written loop, their epochs taking turns within one process.

Run ``python benchmarks/paired.py``: prints one Markdown table. Each of our epochs is compared with
the hand-written ones right before and after it, so whatever slows the core down slows both: these
ratios hold on a busy machine, where those between processes (run.py) do not. Both loops share one
process, though, and so its caches and its heap; the absolute times are a little high.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import environment
from terminal import run_in_terminal

# Workload, our variant, the hand-written variant, epochs.
PAIRS = [
    ("W1", "default", "fused", 25),
    ("W1", "capture", "fused", 25),
    ("W1", "loader", "loader", 15),
    ("W1", "samples", "samples", 15),
    ("W1", "trainloop", "loader", 15),
    ("W1", "reevaluated", "reevaluated", 15),
    ("W2", "default", "fused", 9),
    ("W2", "capture", "fused", 9),
    ("W2", "loader", "loader", 9),
    ("W2", "samples", "samples", 9),
    ("W2", "trainloop", "loader", 9),
    ("W3", "default", "fused", 25),
    ("E2", "default", "fused", 25),
    ("P2", "default", "fused", 25),
]


class Turns:
    """A clock that runs a hand-written epoch whenever one of ours ends."""

    def __init__(self, hand_written: Any) -> None:
        self.hand_written = hand_written
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.start: float | None = None

    def lap(self, loss: Any = None) -> None:
        """Notes the time of our epoch, and of the hand-written one that follows it."""
        now = time.perf_counter()
        if self.start is not None:
            self.ours.append(now - self.start)
        now = time.perf_counter()
        self.hand_written()
        self.theirs.append(time.perf_counter() - now)
        self.start = time.perf_counter()

    def ratios(self) -> list[float]:
        """Returns each of our epochs over the mean of its two neighbours."""
        neighbours = (statistics.mean(pair) for pair in pairwise(self.theirs))
        return [ours / theirs for ours, theirs in zip(self.ours, neighbours, strict=True)]


def main() -> None:
    """Runs every pair in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", help="W1 W2 W3 E2 P2 (default: all)")
    parser.add_argument("--variants", nargs="+", help="default capture loader ... (default: all)")
    parser.add_argument("--core", type=int, help="the core to pin to (default: the last)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    environment.enter()
    if arguments.core is None and hasattr(os, "sched_getaffinity"):
        arguments.core = max(os.sched_getaffinity(0))
    if arguments.child is not None:
        index, result = int(arguments.child[0]), Path(arguments.child[1])
        result.write_text(json.dumps(measure(*PAIRS[index], core=arguments.core)), encoding="utf-8")
        return
    print("| workload | loopwright, µs/step | by hand | ratio | quartiles | over, µs/step |")
    print("|---|--:|--:|--:|--:|--:|")
    for index, (workload, variant, *_) in enumerate(PAIRS):
        asked = (arguments.workloads, workload), (arguments.variants, variant)
        if all(chosen is None or name in chosen for chosen, name in asked):
            row = run_child(index, arguments.core)
            low, middle, high = statistics.quantiles(row["ratios"], n=4)
            print(
                f"| {workload} {variant} | {row['ours']:.1f} | {row['theirs']:.1f} | {middle:.3f} "
                f"| {low:.3f}..{high:.3f} | {row['ours'] - row['theirs']:+.1f} |",
                flush=True,
            )


def run_child(index: int, core: int | None) -> dict[str, Any]:
    """Measures one pair in a fresh process, on a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(index)]
        command += [str(result)] + ([] if core is None else ["--core", str(core)])
        settings = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
        output = run_in_terminal(command, folder, settings, terminal=True)
        if not result.exists():
            sys.exit(output)
        row: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return row


def measure(
    workload: str, variant: str, reference: str, epochs: int, *, core: int | None
) -> dict[str, Any]:
    """Returns the median time per step of both, and the ratios of neighbouring epochs."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    import torch
    from frameworks import hand_written, loopwright
    from workloads import make

    torch.set_num_threads(1)
    work = make(workload)
    work = dataclasses.replace(work, spec=dataclasses.replace(work.spec, laps=epochs))
    kind = work.spec.kind
    turns = Turns(hand_written.repeated(work, kind, reference))
    turns.hand_written()  # its warm-up
    getattr(loopwright, kind)(work, turns, variant)
    steps = (work.spec.samples + work.spec.eval_samples) // work.batch_size
    return {
        "ours": 1e6 * statistics.median(turns.ours) / steps,
        "theirs": 1e6 * statistics.median(turns.theirs) / steps,
        "ratios": turns.ratios(),
    }


if __name__ == "__main__":
    main()

"""One measurement in a fresh process: one framework, one variant, one workload.

Called by run.py with the path that the result goes to; what frameworks print goes to the terminal.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import os
from itertools import pairwise
from pathlib import Path


def main() -> None:
    """Runs the measurement and writes its result as JSON."""
    parser = argparse.ArgumentParser()
    for name in ("framework", "variant", "workload", "result"):
        parser.add_argument(name)
    parser.add_argument("--core", type=int)
    parser.add_argument("--laps", type=int)
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    result = measure(arguments.framework, arguments.variant, arguments.workload, arguments.laps)
    Path(arguments.result).write_text(json.dumps(result), encoding="utf-8")


def measure(framework: str, variant: str, workload: str, laps: int | None) -> dict[str, object]:
    """Returns seconds per lap (wall and CPU), steps per lap, losses and resident memory."""
    module = importlib.import_module(f"frameworks.{framework}")
    import torch
    from clock import Clock
    from torch.nn.functional import cross_entropy
    from workloads import make

    torch.set_num_threads(1)
    work = make(workload)
    if laps is not None:
        work = dataclasses.replace(work, spec=dataclasses.replace(work.spec, laps=laps))
    clock = Clock()
    outputs = getattr(module, work.spec.kind)(work, clock, variant)
    if len(clock.times) != work.epochs:
        raise RuntimeError(f"expected {work.epochs} laps, the clock has {len(clock.times)}")
    if outputs is not None:
        if outputs.shape != (len(work.x), 10):
            raise RuntimeError(f"expected outputs of shape {(len(work.x), 10)}: {outputs.shape}")
        clock.losses[-1] = float(cross_entropy(outputs.float(), work.y))
    if not math.isfinite(clock.losses[-1]):
        raise RuntimeError(f"the last loss is {clock.losses[-1]}")
    return {
        "steps_per_lap": (work.spec.samples + work.spec.eval_samples) // work.batch_size,
        "wall_seconds": [end - start for start, end in pairwise(clock.times)],
        "cpu_seconds": [end - start for start, end in pairwise(clock.cpu_times)],
        "loss": clock.losses[-1],
        "rss_mib": clock.rss_mib,
    }


if __name__ == "__main__":
    main()

"""What glibc's allocator costs a small CNN on a CPU, and which run-time setting removes it.

Run ``python benchmarks/malloc.py``: prints one Markdown table. Every repetition is a fresh process;
the variants are shuffled and interleaved.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time

# Numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
MIB = 1 << 20

KEEP, LARGEST_INT = 1024 * MIB, 2**31 - 1

# (option, value) pairs that a child sets through mallopt after importing torch, in this order.
MALLOPT: dict[str, list[tuple[int, int]]] = {
    "default": [],
    "trim=2GiB-1": [(M_TRIM_THRESHOLD, LARGEST_INT)],
    "mmap=1GiB": [(M_MMAP_THRESHOLD, KEEP)],
    "mmap=1GiB trim=2GiB-1": [(M_MMAP_THRESHOLD, KEEP), (M_TRIM_THRESHOLD, LARGEST_INT)],
    "mmap=32MiB trim=2GiB-1": [(M_MMAP_THRESHOLD, 32 * MIB), (M_TRIM_THRESHOLD, LARGEST_INT)],
    "mmap=1GiB trim=2GiB-1 pad=64MiB": [
        (M_MMAP_THRESHOLD, KEEP),
        (M_TRIM_THRESHOLD, LARGEST_INT),
        (M_TOP_PAD, 64 * MIB),
    ],
    "mmap_max=0 trim=2GiB-1": [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST_INT)],
    "restored: mmap=32MiB trim=64MiB pad=128KiB": [
        (M_MMAP_THRESHOLD, KEEP),
        (M_TRIM_THRESHOLD, LARGEST_INT),
        (M_TOP_PAD, 64 * MIB),
        (M_MMAP_THRESHOLD, 32 * MIB),
        (M_TRIM_THRESHOLD, 64 * MIB),
        (M_TOP_PAD, 128 * 1024),
    ],
}
ENVIRONMENT: dict[str, dict[str, str]] = {
    "environment: mmap=1GiB trim=2GiB pad=256MiB": {
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        "MALLOC_TRIM_THRESHOLD_": "2147483648",
        "MALLOC_TOP_PAD_": "268435456",
    }
}


def main() -> None:
    """Measures every variant and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6, help="timed epochs")
    parser.add_argument("--batch-size", type=int, default=64, help="992 makes buffers of 50 MB")
    parser.add_argument("--core", type=int, default=None, help="the core to pin to (default: last)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(measure(arguments.child, arguments)))
        return
    jobs = [name for name in [*MALLOPT, *ENVIRONMENT] for _ in range(arguments.repeats)]
    random.Random(0).shuffle(jobs)
    rows: dict[str, list[dict[str, float]]] = {}
    for name in jobs:
        rows.setdefault(name, []).append(run_child(name, arguments))
    print_table(rows)


def run_child(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Runs one repetition of the variant `name` in a fresh process."""
    command = [sys.executable, __file__, "--child", name]
    for option in ("epochs", "batch_size", "core"):
        if (value := getattr(arguments, option)) is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    environment = os.environ | ENVIRONMENT.get(name, {})
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
    return result


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Trains the CNN; returns time and page faults per step, and memory before and after."""
    core = arguments.core
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})
    import torch
    from clock import resident_mib
    from frameworks.hand_written import InMemory
    from workloads import make

    libc = ctypes.CDLL(None)
    accepted = [libc.mallopt(option, value) for option, value in MALLOPT.get(name, [])]
    torch.set_num_threads(1)
    work = make("W3")
    spec = dataclasses.replace(work.spec, batch_size=arguments.batch_size)
    run = InMemory(dataclasses.replace(work, spec=spec))
    run.epoch()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(arguments.epochs):
        run.epoch()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    kept = resident_mib()
    del run
    libc.malloc_trim(0)
    steps = arguments.epochs * len(work.x) // spec.batch_size
    return {
        "ms": 1e3 * seconds / steps,
        "cpu_ms": 1e3 * cpu_seconds / steps,
        "faults": faults / steps,
        "accepted": min(accepted, default=1),
        "kept": kept,
        "trimmed": resident_mib(),
    }


def print_table(rows: dict[str, list[dict[str, float]]]) -> None:
    """Prints medians and ranges as Markdown."""
    print("| setting | accepted | ms/step | min..max | CPU ms | page faults | RSS MiB | trimmed |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name in [*MALLOPT, *ENVIRONMENT]:
        times = [row["ms"] for row in rows[name]]
        middle = {key: statistics.median(r[key] for r in rows[name]) for key in rows[name][0]}
        print(
            f"| {name} | {'yes' if middle['accepted'] else 'no'} | {middle['ms']:.2f} "
            f"| {min(times):.2f}..{max(times):.2f} | {middle['cpu_ms']:.2f} "
            f"| {middle['faults']:.0f} "
            f"| {middle['kept']:.0f} | {middle['trimmed']:.0f} |"
        )


if __name__ == "__main__":
    main()

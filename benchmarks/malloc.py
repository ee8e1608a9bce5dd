"""What glibc's allocator costs a small CNN on a CPU, and which run-time setting removes it.

Run ``python benchmarks/malloc.py``: prints one Markdown table. Every repetition is a fresh process;
the variants are shuffled and interleaved.
"""

from __future__ import annotations

import argparse
import ctypes
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

# (option, value) pairs that a child sets through mallopt after importing torch, in this order.
MALLOPT: dict[str, list[tuple[int, int]]] = {
    "default": [],
    "trim=2147483647": [(M_TRIM_THRESHOLD, 2**31 - 1)],
    "mmap=1GiB": [(M_MMAP_THRESHOLD, 1024 * MIB)],
    "mmap=1GiB trim=2147483647": [
        (M_MMAP_THRESHOLD, 1024 * MIB),
        (M_TRIM_THRESHOLD, 2**31 - 1),
    ],
    "mmap=32MiB trim=2147483647": [
        (M_MMAP_THRESHOLD, 32 * MIB),
        (M_TRIM_THRESHOLD, 2**31 - 1),
    ],
    "mmap=1GiB trim=2147483647 pad=256MiB": [
        (M_MMAP_THRESHOLD, 1024 * MIB),
        (M_TRIM_THRESHOLD, 2**31 - 1),
        (M_TOP_PAD, 256 * MIB),
    ],
    "mmap_max=0 trim=2147483647": [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)],
    "restored: mmap=32MiB trim=64MiB pad=128KiB": [
        (M_MMAP_THRESHOLD, 1024 * MIB),
        (M_TRIM_THRESHOLD, 2**31 - 1),
        (M_TOP_PAD, 256 * MIB),
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
    parser.add_argument("--epochs", type=int, default=6, help="timed epochs of 31 steps")
    parser.add_argument("--core", type=int, default=None, help="the core to pin to (default: last)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(measure(arguments.child, arguments.epochs, arguments.core)))
        return
    jobs = [name for name in [*MALLOPT, *ENVIRONMENT] for _ in range(arguments.repeats)]
    random.Random(0).shuffle(jobs)
    rows: dict[str, list[dict[str, float]]] = {}
    for name in jobs:
        rows.setdefault(name, []).append(run_child(name, arguments.epochs, arguments.core))
    print_table(rows)


def run_child(name: str, epochs: int, core: int | None) -> dict[str, float]:
    """Runs one repetition of the variant `name` in a fresh process."""
    command = [sys.executable, __file__, "--child", name, "--epochs", str(epochs)]
    if core is not None:
        command += ["--core", str(core)]
    environment = os.environ | ENVIRONMENT.get(name, {})
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
    return result


def measure(name: str, epochs: int, core: int | None) -> dict[str, float]:
    """Trains the CNN; returns time and page faults per step, and memory before and after it ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})
    import torch
    from clock import resident_mib
    from frameworks.hand_written import InMemory
    from workloads import make

    libc = ctypes.CDLL(None)
    accepted = [libc.mallopt(option, value) for option, value in MALLOPT.get(name, [])]
    torch.set_num_threads(1)
    run = InMemory(make("W3"))
    run.epoch()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(epochs):
        run.epoch()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    kept = resident_mib()
    del run
    libc.malloc_trim(0)
    steps = epochs * 31
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
        median = {key: statistics.median(r[key] for r in rows[name]) for key in rows[name][0]}
        print(
            f"| {name} | {'yes' if median['accepted'] else 'no'} | {median['ms']:.2f} "
            f"| {min(times):.2f}..{max(times):.2f} | {median['cpu_ms']:.2f} | {median['faults']:.0f} "
            f"| {median['kept']:.0f} | {median['trimmed']:.0f} |"
        )


if __name__ == "__main__":
    main()

"""What starting costs: imports, ``loopwright --help``, the first optimizer, the first step.

Run ``python benchmarks/imports.py`` in the environment of run.py: prints one Markdown table. Every
repetition is a fresh process; all cases are shuffled and interleaved.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import environment

# Case: (code that is not timed, code that is).
CASES = {
    "import torch": ("", "import torch"),
    "from loopwright import Trainer": ("", "from loopwright import Trainer"),
    "the first torch.optim.SGD(...)": (
        "import torch; layer = torch.nn.Linear(4, 4)",
        "torch.optim.SGD(layer.parameters(), lr=0.1)",
    ),
    "the first, the garbage collector paused": (
        "import gc, torch; layer = torch.nn.Linear(4, 4)",
        "gc.disable(); torch.optim.SGD(layer.parameters(), lr=0.1); gc.enable()",
    ),
    "the second": (
        "import torch; layer = torch.nn.Linear(4, 4); torch.optim.SGD(layer.parameters(), lr=0.1)",
        "torch.optim.SGD(layer.parameters(), lr=0.1)",
    ),
    "import torch._dynamo": ("import torch", "import torch._dynamo"),
}
DATA = "x = torch.randn(60_000, 784); x = (x - x.mean(0)) / x.std(0); y = x[:, :10].argmax(1)\n"
MODEL = (
    "model = torch.nn.Linear(784, 10)\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)\n"
)
STEP = (
    "torch.nn.functional.cross_entropy(model(x[:64]), y[:64]).backward()\n"
    "optimizer.step(); optimizer.zero_grad()\n"
)
BACKGROUND = (
    "import importlib, threading\n"
    "threading.Thread(target=importlib.import_module, args=['torch._dynamo']).start()\n"
)
TRAINER = (
    "Trainer(model, torch.nn.CrossEntropyLoss(), optimizer).train(\n"
    "    torch.utils.data.TensorDataset(x, y), 1, per_device_batch_size=64,\n"
    "    max_num_train_steps=1)\n"
)
CASES |= {
    "torch, 60,000 x 784 drawn, first step by hand": ("", "import torch\n" + DATA + MODEL + STEP),
    "the same, torch._dynamo imported by a thread meanwhile": (
        "",
        "import torch\n" + BACKGROUND + DATA + MODEL + STEP,
    ),
    "the same, one step by Trainer": (
        "",
        "import torch\nfrom loopwright import Trainer\n" + DATA + MODEL + TRAINER,
    ),
}
COMMANDS = {
    "python -c pass (whole process)": [sys.executable, "-c", "pass"],
    "loopwright --help (whole process)": [
        str(Path(sys.executable).parent / "loopwright"),
        "--help",
    ],
}


def main() -> None:
    """Measures every case and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cases", nargs="+", help="parts of the names of cases (default: all)")
    arguments = parser.parse_args()
    environment.enter()
    names = [name for name in [*CASES, *COMMANDS] if matches(name, arguments.cases)]
    jobs = names * arguments.repeats
    random.Random(0).shuffle(jobs)
    for name in names:  # a first, untimed round leaves compiled modules and files in memory
        measure(name)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in jobs:
        seconds[name].append(measure(name))
    print("| what | wall, s | min..max | CPU, s |\n|---|--:|--:|--:|")
    for name, pairs in seconds.items():
        wall, cpu = zip(*pairs, strict=True)
        print(
            f"| {name} | {statistics.median(wall):.3f} | {min(wall):.3f}..{max(wall):.3f} "
            f"| {statistics.median(cpu):.3f} |"
        )


def matches(name: str, parts: list[str] | None) -> bool:
    """Tells whether a case was asked for."""
    return parts is None or any(part in name for part in parts)


def measure(name: str) -> tuple[float, float]:
    """Returns wall and CPU seconds of one case in a fresh process."""
    return time_command(name) if name in COMMANDS else time_code(*CASES[name])


def time_code(before: str, timed: str) -> tuple[float, float]:
    """Returns wall and CPU seconds of `timed` in a fresh interpreter."""
    code = (
        "import json, sys, time\n"
        f"exec({before!r})\n"
        "wall, cpu = time.perf_counter(), time.process_time()\n"
        f"exec({timed!r})\n"
        "print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]),"
        " file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    wall, cpu = json.loads(done.stderr.splitlines()[-1])
    return wall, cpu


def time_command(name: str) -> tuple[float, float]:
    """Returns wall seconds of a whole process; its CPU time is not told apart."""
    start = time.perf_counter()
    subprocess.run(COMMANDS[name], capture_output=True, check=True)
    return time.perf_counter() - start, float("nan")


if __name__ == "__main__":
    main()

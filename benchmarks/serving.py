"""Requests per second of the prediction server, put together or one by one.

Run ``python benchmarks/serving.py`` in an environment with ``loopwright[cli,sklearn,serve]``: 64
clients keep their connections and send one sample each time, first to a server that puts waiting
requests together, then to one with ``--max-batch-size 1``, in turns. The model is an MLP with two
layers of 2048, whose weights a lone sample has to fetch as a batch does. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIANTS = {"put together": "256", "one by one": "1"}


def main() -> None:
    """Trains a model, serves it both ways in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each turn (default 60)")
    parser.add_argument("--clients", type=int, default=64, help="connections (default 64)")
    parser.add_argument("--turns", type=int, default=3, help="of each variant (default 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact, body = prepare(Path(folder))
        rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
        tails: dict[str, list[float]] = {name: [] for name in VARIANTS}
        lost = dict.fromkeys(VARIANTS, 0)
        for _ in range(arguments.turns):
            for name, size in VARIANTS.items():
                with serving(artifact, size) as port:
                    asyncio.run(load(port, body, arguments.clients, 1.0))  # warm-up
                    latencies, failed = asyncio.run(
                        load(port, body, arguments.clients, arguments.seconds)
                    )
                rates[name].append(len(latencies) / arguments.seconds)
                tails[name].append(statistics.quantiles(latencies, n=100)[98])
                lost[name] += failed
    print(
        f"{arguments.clients} clients, {arguments.seconds:g} s each turn, {os.cpu_count()} cores\n"
    )
    print("| requests | per second | min..max | p99, ms | lost |\n|---|--:|--:|--:|--:|")
    for name, values in rates.items():
        print(
            f"| {name} | {statistics.median(values):,.0f} | {min(values):,.0f}..{max(values):,.0f} "
            f"| {1e3 * statistics.median(tails[name]):.0f} | {lost[name]} |"
        )
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    print(f"\nratio {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})")


def prepare(folder: Path) -> tuple[Path, bytes]:
    """Trains a model for a moment; returns its file and the body of a request."""
    from loopwright.experiment import Experiment

    os.chdir(folder)
    experiment = Experiment(
        dataset={"dataset": "digits"},
        model={"model": {"type": "mlp", "hidden": [2048, 2048]}},
        run={"seed": 0},
    )
    experiment.train(verbose=False)
    experiment.save("model.zip")
    sample = experiment.dataset.dataset.tensors()[0][:1].tolist()
    return folder / "model.zip", json.dumps({"inputs": sample}).encode()


@contextmanager
def serving(artifact: Path, max_batch_size: str) -> Iterator[int]:
    """Serves the artifact in a process of its own; gives the port."""
    command = [sys.executable, "-m", "loopwright", "serve", str(artifact), "--port", "0"]
    command += ["--max-batch-size", max_batch_size]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=settings) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "running on" in line)
        try:
            yield int(line.split("127.0.0.1:")[1].split()[0])
        finally:
            process.terminate()


async def load(port: int, body: bytes, clients: int, seconds: float) -> tuple[list[float], int]:
    """Sends requests from all clients; returns the seconds of each answer, and how many failed."""
    head = ["POST /predict HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body)}", "", ""]
    request, failed = "\r\n".join(head).encode() + body, 0
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            content = await reader.readexactly(length)
            if answer.startswith(b"HTTP/1.1 200") and b'"predictions"' in content:
                latencies.append(time.perf_counter() - began)
            else:
                failed += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies, failed


if __name__ == "__main__":
    main()

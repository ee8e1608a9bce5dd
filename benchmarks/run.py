"""Measures loopwright beside hand-written loops and other training libraries, on one CPU core.

Every repetition runs in a fresh process; the repetitions of all frameworks are shuffled.
See README.md for how to read the result.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import environment
from terminal import run_in_terminal

HERE = Path(__file__).resolve().parent
# The long run is about one framework's own drift, so only these take part.
LONG_RUN = [("hand_written", "fused"), ("loopwright", "default")]
SETTINGS = ("repeats", "laps", "clock", "terminal")


def main() -> int:
    """Runs what the command line asks for; returns 1 when a measurement failed."""
    arguments = parse_arguments()
    environment.enter()
    import report

    jobs = list_jobs(arguments.workloads, arguments.frameworks)
    jobs = [job for job in jobs for _ in range(arguments.repeats)]
    random.Random(arguments.seed).shuffle(jobs)
    runs = []
    for number, (workload, framework, variant) in enumerate(jobs, start=1):
        run = {"workload": workload, "framework": framework, "variant": variant}
        run |= run_worker(workload, framework, variant, arguments)
        if "error" not in run:
            run["us_per_step"] = report.microseconds(run, arguments.clock)
        runs.append(run)
        print(f"[{number}/{len(jobs)}] {report.line(run)}", flush=True)
    results = {
        "date": datetime.date.today().isoformat(),
        "settings": {name: getattr(arguments, name) for name in SETTINGS},
        "hardware": report.hardware(),
        "versions": report.versions(),
        "runs": runs,
    }
    print("\n" + report.markdown(results))
    if arguments.output is not None:
        report.write(results, arguments.output)
    return int(any("error" in run for run in runs))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line; --quick changes only what is not given."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--workloads", nargs="+", help="W1 W2 W3 P2 E2 S1 (default: all)")
    add("--frameworks", nargs="+", help="names of files in frameworks/ (default: all)")
    add("--repeats", type=int, help="fresh processes for each row (default 5)")
    add("--laps", type=int, help="timed epochs or calls in each process (default: the workload's)")
    add("--quick", action="store_true", help="one repetition of one lap, nothing written")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: when others use the core")
    add("--core", type=int, help="the core to pin to (default: the last)")
    add("--seed", type=int, default=0, help="of the order of the processes")
    add("--no-terminal", dest="terminal", action="store_false", help="print to /dev/null instead")
    add("--output", type=Path, help="folder that the results are written to")
    arguments = parser.parse_args()
    if arguments.repeats is None:
        arguments.repeats = 1 if arguments.quick else 5
    if arguments.laps is None and arguments.quick:
        arguments.laps = 1
    if arguments.output is None and not arguments.quick:
        arguments.output = HERE / "results"
    if arguments.core is None and hasattr(os, "sched_getaffinity"):
        arguments.core = max(os.sched_getaffinity(0))
    return arguments


def list_jobs(
    workloads: list[str] | None, frameworks: list[str] | None
) -> list[tuple[str, str, str]]:
    """Lists (workload, framework, variant), leaving out what a framework's file does not offer."""
    from workloads import SPECS

    offers = {path.stem: offered(path) for path in sorted(HERE.glob("frameworks/[a-z]*.py"))}
    for given, known in ((workloads, SPECS), (frameworks, offers)):
        if unknown := sorted(set(given or ()) - set(known)):
            sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return [
        (workload, framework, variant)
        for workload in workloads or SPECS
        for framework in frameworks or offers
        for variant in offers[framework][0]
        if SPECS[workload].kind in offers[framework][1]
        and (workload != "S1" or (framework, variant) in LONG_RUN)
    ]


def offered(path: Path) -> tuple[tuple[str, ...], set[str]]:
    """Reads a framework's variants and functions from its file, without importing the framework."""
    variants: tuple[str, ...] = ()
    functions = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VARIANTS":
            variants = ast.literal_eval(node.value)
    return variants, functions


def run_worker(
    workload: str, framework: str, variant: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Runs worker.py in a fresh process and folder; returns its result or the error."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(HERE / "worker.py"), framework, variant, workload]
        command.append(str(result))
        for option in ("core", "laps"):
            if (value := getattr(arguments, option)) is not None:
                command += [f"--{option}", str(value)]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        settings = os.environ | threads | {"TERM": "xterm-256color"}
        output = run_in_terminal(command, folder, settings, terminal=arguments.terminal)
        if not result.exists():
            return {"error": output}
        run: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return run


if __name__ == "__main__":
    sys.exit(main())

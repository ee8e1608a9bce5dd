"""Turns measurements into a Markdown table and a plot, and says what they were measured on."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

Run = dict[str, Any]
Row = tuple[str, str]

PACKAGES = (
    "loopwright", "torch", "numpy", "lightning", "accelerate", "transformers",
    "pytorch-accelerated", "aitoolbox", "pytorch-ignite", "skorch", "keras", "fastai",
)  # fmt: skip
IN_MEMORY, OVER_LOADER = ("hand_written", "fused"), ("hand_written", "loader")
TITLES = {
    "W1": "W1: training, MLP 32-64-10, 19,968 x 32, batch 64, SGD with momentum",
    "W2": "W2: training, MLP 784-128-10, 59,904 x 784, batch 64, Adam",
    "W3": "W3: training, small CNN, 1,984 x 1x28x28, batch 64",
    "P2": "P2: predicting 59,904 x 784, MLP 784-128-10, batch 256, whole call",
    "E2": "E2: evaluating 59,904 x 784 after each epoch, MLP 784-128-10, batch 256",
}


def hardware() -> dict[str, Any]:
    """Describes the machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for entry in cpuinfo.read_text(encoding="utf-8").splitlines():
            if entry.startswith("model name"):
                model = entry.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of everything that is measured."""
    return {name: metadata.version(name) for name in PACKAGES if installed(name)}


def installed(name: str) -> bool:
    """Tells whether a distribution is installed."""
    return any(metadata.distributions(name=name))


def microseconds(run: Run, clock: str) -> float:
    """Returns the time per step over all timed laps; `clock` is "wall" or "cpu"."""
    laps = run[f"{clock}_seconds"]
    return 1e6 * sum(laps) / (run["steps_per_lap"] * len(laps))


def line(run: Run) -> str:
    """Describes one measurement in one line."""
    name = f"{run['workload']} {run['framework']} {run['variant']}"
    if "error" in run:
        return f"{name}: failed\n{run['error']}"
    return f"{name}: {run['us_per_step']:.1f} us/step, loss {run['loss']:.3f}"


def by_row(runs: list[Run], workload: str) -> dict[Row, list[Run]]:
    """Groups a workload's runs by framework and variant, the fastest median first."""
    rows: dict[Row, list[Run]] = defaultdict(list)
    for run in runs:
        if run["workload"] == workload and "error" not in run:
            rows[run["framework"], run["variant"]].append(run)
    return dict(sorted(rows.items(), key=lambda item: median(item[1])))


def median(runs: list[Run] | None) -> float:
    """Returns the median time per step in microseconds, NaN of nothing."""
    return statistics.median(times(runs)) if runs else math.nan


def times(runs: list[Run]) -> list[float]:
    """Returns the time per step of each repetition in microseconds, in ascending order."""
    return sorted(run["us_per_step"] for run in runs)


def markdown(results: dict[str, Any]) -> str:
    """Returns the whole report."""
    machine, settings = results["hardware"], results["settings"]
    packages = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    shown = "a terminal of 120 columns" if settings["terminal"] else "/dev/null"
    parts = [
        f"# One CPU core, {results['date']}\n",
        f"{machine['cpu']}, {machine['cores']} cores of which one is used, {machine['system']}, "
        f"{machine['libc']}, Python {machine['python']}. {packages}. Medians of "
        f"{settings['repeats']} fresh processes, interleaved; output goes to {shown}. Times are "
        f"{settings['clock']} times. Processes had the CPU for {share_on_cpu(results['runs']):.0%} "
        "of the time.\n",
    ]
    for workload in TITLES:
        if rows := by_row(results["runs"], workload):
            parts.append(table(workload, rows))
    if rows := by_row(results["runs"], "S1"):
        parts.append(long_run_table(rows, settings["clock"]))
    if failed := [line(run) for run in results["runs"] if "error" in run]:
        parts.append("## Failed\n\n```\n" + "\n".join(failed) + "\n```\n")
    return "\n".join(parts)


def share_on_cpu(runs: list[Run]) -> float:
    """Returns the median share of a core that a process had; far below 1, others used it too."""
    whole = [run for run in runs if "error" not in run]
    if not whole:
        return math.nan
    return statistics.median(sum(r["cpu_seconds"]) / sum(r["wall_seconds"]) for r in whole)


def table(workload: str, rows: dict[Row, list[Run]]) -> str:
    """Returns one workload's table."""
    reference, loader = median(rows.get(IN_MEMORY)), median(rows.get(OVER_LOADER))
    unit = "µs/step" if workload.startswith("W") else "µs/batch"
    lines = [
        f"## {TITLES[workload]}\n",
        f"| framework | {unit} | min..max | ratio to in-memory | over loader loop | last loss |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for (framework, variant), runs in rows.items():
        name, middle = f"{framework} {variant}", median(runs)
        lines.append(
            f"| {f'**{name}**' if framework == 'loopwright' else name} | {middle:.1f} "
            f"| {times(runs)[0]:.0f}..{times(runs)[-1]:.0f} | {number(middle / reference, '.2f')} "
            f"| {number(middle - loader, '+.1f')} | {losses(runs)} |"
        )
    return "\n".join(lines) + "\n"


def long_run_table(rows: dict[Row, list[Run]], clock: str) -> str:
    """Returns the table of 100,000 steps: does time or memory creep?"""
    thousands = 1 + len(next(iter(rows.values()))[0]["wall_seconds"])
    lines = [
        f"## S1: {thousands},000 steps of W1's model (an epoch is a thousand steps)\n",
        "| framework | 2nd thousand, µs/step | last thousand | first ten thousand | last ten "
        "thousand | RSS after the 2nd, MiB | RSS at the end |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (framework, variant), runs in rows.items():
        laps = [[1e6 * s / r["steps_per_lap"] for s in r[f"{clock}_seconds"]] for r in runs]
        first, last = ([lap[index] for lap in laps] for index in (0, -1))
        early, late = ([statistics.median(lap[part]) for lap in laps]
                       for part in (slice(10), slice(-10, None)))  # fmt: skip
        memory = ([run["rss_mib"][index] for run in runs] for index in (1, -1))
        cells = [f"{statistics.median(values):.1f}" for values in (first, last, early, late)]
        cells += [f"{statistics.median(values):.1f}" for values in memory]
        lines.append(f"| {framework} {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def number(value: float, style: str) -> str:
    """Formats a number that is missing when its reference was not measured."""
    return "" if math.isnan(value) else format(value, style)


def losses(runs: list[Run]) -> str:
    """Returns the last losses of all repetitions as one value or a range."""
    low, high = (f"{bound(run['loss'] for run in runs):.3f}" for bound in (min, max))
    return low if low == high else f"{low}..{high}"


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes the results as JSON, Markdown and SVG, named by the date."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{results['date']}-cpu"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    plot(results, stem.with_suffix(".svg"))
    print(f"Written: {stem}.json, .md, .svg")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draws the time per training step as bars, from the fastest to the slowest."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "loopwright"
    import matplotlib.pyplot as plt

    rows = {name: by_row(results["runs"], name) for name in ("W1", "W2")}
    shown = {name: row for name, row in rows.items() if row}
    if not shown:
        return
    height = 1.2 + 0.24 * max(map(len, shown.values()))
    figure, axes = plt.subplots(1, len(shown), figsize=(6.4 * len(shown), height), squeeze=False)
    for axis, (workload, row) in zip(axes[0], shown.items(), strict=True):
        draw_bars(axis, row)
        axis.set_title(TITLES[workload].replace(", MLP", "\nMLP", 1), fontsize=9, loc="left")
    figure.suptitle(f"{results['hardware']['cpu']}, one core, {results['date']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def draw_bars(axis: Any, rows: dict[Row, list[Run]]) -> None:
    """Draws one bar a row: the median, and a line from the fastest to the slowest repetition."""
    colours = {"loopwright": "#d9480f", "hand_written": "#868e96"}
    names = [f"{framework} {variant}" for framework, variant in rows]
    medians = [median(runs) for runs in rows.values()]
    ends = [(times(runs)[0], times(runs)[-1]) for runs in rows.values()]
    pairs = list(zip(medians, ends, strict=True))
    spread = [[middle - low for middle, (low, _) in pairs],
              [high - middle for middle, (_, high) in pairs]]  # fmt: skip
    axis.barh(
        names, medians, xerr=spread, color=[colours.get(name, "#74c0fc") for name, _ in rows],
        error_kw={"elinewidth": 0.8, "ecolor": "#343a40"},
    )  # fmt: skip
    for index, (middle, (_, high)) in enumerate(pairs):
        axis.text(high, index, f"  {middle:.0f}", va="center", fontsize=7)
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.tick_params(labelsize=8)
    axis.set_xlabel("µs per step, less is better", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)

"""Trains examples/dogs_vs_cats_75.yaml over seeds, with its augmentors and without.

python benchmarks/dogs_vs_cats.py DATA, where DATA holds train/cat.0.jpg and so on. Each seed has a
split of its own, and the test part is looked at after the last epoch alone. Network and settings
were chosen by a validation part taken from the training images of the first seed, while its test
accuracy was printed beside: the other seeds are the ones that nobody looked at.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from loopwright.experiment import Experiment

CONFIG = Path(__file__).parents[1] / "examples" / "dogs_vs_cats_75.yaml"


def main() -> None:
    """Print a line of JSON for each run, and then mean and deviation with and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder with the images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    given = parser.parse_args()
    found: dict[str, list[float]] = {"augmented": [], "plain": []}
    for name, accuracies in found.items():
        for seed in range(given.seeds):
            row = measure(given.data, seed, given.runs, augmented=name == "augmented")
            accuracies.append(row["test_accuracy"])
            print(json.dumps({"training": name, "seed": seed} | row), flush=True)
    for name, accuracies in found.items():
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        print(f"{name}: {mean:.2%} mean of {given.seeds} seeds, deviation {deviation:.2%}")
    gains = [a - b for a, b in zip(found["augmented"], found["plain"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    print(f"augmentation adds {statistics.mean(gains):.2%} (standard error {error:.2%})")


def measure(data: Path, seed: int, runs: Path, *, augmented: bool) -> dict[str, Any]:
    """Train once, and return what it reached and the seconds of processor time it took."""
    overrides = [f"dataset.dataset.path={data}", f"run.seed={seed}", "run.step_mode=eager"]
    overrides += [] if augmented else ["dataset.data_augmentors=[]"]
    began = time.process_time()
    metrics = Experiment.from_yaml(CONFIG, overrides).train(runs, verbose=False)["metrics"]
    names = ("test_accuracy", "test_loss", "train_accuracy")
    row = {name: round(metrics[name], 4) for name in names}
    return row | {"cpu_seconds": round(time.process_time() - began)}


if __name__ == "__main__":
    main()

"""Runs Lightning's own tests against the adapter, and prints what passes and why the rest does not.

    python benchmarks/lightning_contract.py --source PATH

PATH is a checkout of Lightning-AI/pytorch-lightning; the `lightning` that is installed is used with
the tests in it. In them `Trainer` is `loopwright.adapters.lightning.Trainer`. Each test runs with
Lightning's own trainer too: one that fails or is skipped there, too, says nothing here.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FILES = (
    "models/test_hooks.py",
    "core/test_lightning_module.py",
    "core/test_lightning_optimizer.py",
    "core/test_datamodules.py",
    "core/test_metric_result_integration.py",
    "core/test_results.py",
    "loops/optimization/test_automatic_loop.py",
    "loops/optimization/test_closure.py",
    "loops/optimization/test_manual_loop.py",
    "callbacks/test_model_checkpoint_manual_opt.py",
    "trainer/optimization/test_backward_calls.py",
    "trainer/optimization/test_manual_optimization.py",
    "trainer/optimization/test_multiple_optimizers.py",
    "trainer/optimization/test_optimizers.py",
    "trainer/logging_/test_eval_loop_logging.py",
    "trainer/logging_/test_logger_connector.py",
    "trainer/logging_/test_loop_logging.py",
    "trainer/logging_/test_train_loop_logging.py",
)

REASONS: tuple[tuple[str, str], ...] = (
    (
        "test_on_train_epoch_end_metrics_collection|test_log_works_in_train_callback",
        "reads Lightning's progress bar, whose place ours takes",
    ),
    (
        "test_lightning_optimizer_automatic_optimization_optimizer_step",
        "asks whether the closure is of a private class of Lightning's",
    ),
    (
        "test_optimizer_step_no_closure_raises",
        "expects Lightning's own exception; ours is a RuntimeError that says what to do",
    ),
    (
        r"test_skip_training_step_not_allowed\[2\]|test_logging_sync_dist_true\[2-cpu\]",
        "needs two processes; the adapter takes one device",
    ),
)
"""Patterns of tests that do not pass, with the reason of each."""


def pytest_configure() -> None:
    """Puts the adapter's trainer in place of Lightning's, before any test imports it."""
    if os.environ.get("CONTRACT_TRAINER") != "adapter":
        return
    import lightning
    import lightning.pytorch
    import lightning.pytorch.trainer

    from loopwright.adapters.lightning import Trainer

    for module in (lightning, lightning.pytorch, lightning.pytorch.trainer):
        module.Trainer = Trainer


def pytest_runtest_logreport(report) -> None:
    """Notes how each test ended."""
    if report.when == "call" or report.outcome != "passed":
        message = str(report.longrepr).strip().splitlines()[-1:] if report.failed else []
        line = {"test": report.nodeid, "outcome": report.outcome, "message": message}
        with open(os.environ["CONTRACT_RESULTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def run(source: Path, trainer: str, files: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Returns how each test ended, by its name."""
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        results, config = Path(folder, "results.jsonl"), Path(folder, "pytest.ini")
        results.touch()
        config.write_text("[pytest]\n")
        paths = [str(here), str(source / "tests"), *os.environ.get("PYTHONPATH", "").split(":")]
        environment = os.environ | {
            "CONTRACT_TRAINER": trainer,
            "CONTRACT_RESULTS": str(results),
            "PYTHONPATH": ":".join(filter(None, paths)),
        }
        options = ["-q", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "-c", str(config)]
        options += ["--rootdir", str(source / "tests"), "--timeout", "180", "-W", "ignore"]
        tests = [str(source / "tests" / "tests_pytorch" / file) for file in files]
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            env=environment,
            cwd=source / "tests",
            stdout=sys.stderr,
            check=False,
        )
        if not results.stat().st_size:
            raise SystemExit(f"no test ran; do the tests in {source} fit the installed lightning?")
        lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
        return {line["test"]: line for line in lines}


def reason_of(test: str) -> str | None:
    """Returns why a test is not expected to pass, if that is known."""
    return next((reason for pattern, reason in REASONS if re.search(pattern, test)), None)


def not_passed(theirs: dict[str, dict], ours: dict[str, dict]) -> list[str]:
    """Returns the tests that pass with Lightning's trainer alone, those that did not end too."""
    passed = [test for test, end in theirs.items() if end["outcome"] == "passed"]
    return [test for test in passed if ours.get(test, {}).get("outcome") != "passed"]


def report(theirs: dict[str, dict], ours: dict[str, dict]) -> Iterator[str]:
    """Gives the lines of the report."""
    counted = sum(end["outcome"] == "passed" for end in theirs.values())
    others = not_passed(theirs, ours)
    yield f"{counted - len(others)} of {counted} tests pass with the adapter"
    yield f"{len(theirs) - counted} more fail or are skipped with Lightning's trainer too"
    for reason, number in Counter(map(reason_of, others)).most_common():
        yield f"\n{number}: {reason or 'UNEXPLAINED'}"
        for test in others:
            if reason_of(test) == reason:
                message = ours.get(test, {}).get("message", ["did not end"])
                yield f"  {test}: {' '.join(message)[:150]}"


def main() -> int:
    """Runs both, prints the report, and returns 1 where a failure has no known reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("files", nargs="*", help="below tests/tests_pytorch; all by default")
    arguments = parser.parse_args()
    files = tuple(arguments.files) or FILES
    theirs = run(arguments.source.resolve(), "lightning", files)
    ours = run(arguments.source.resolve(), "adapter", files)
    print("\n".join(report(theirs, ours)))
    return int(any(reason_of(test) is None for test in not_passed(theirs, ours)))


if __name__ == "__main__":
    sys.exit(main())

"""The samples of the document, killed while they train, save and upload, and continued."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samples import LOOPS, sample

from faults.runner import FULL, TESTS
from faults.servers import S3
from faults.test_storage import hashes

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.faults

KILLS = (1, 4, 7) if FULL else (4,)
"""The epochs in which a program is killed, some time after their checkpoint appeared."""


class Program:
    """Is a sample in a process of its own."""

    def __init__(self, folder: Path, s3: S3, loop: str, continues: str | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        paths = [str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "faults.sample_task"]
        self.process = subprocess.Popen(
            [*command, json.dumps([loop, continues])],
            cwd=folder,
            env={**os.environ, **environment, **s3.environment()},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def result(self) -> dict[str, Any]:
        """Return what it ends with."""
        out, _ = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, out
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result

    def kill(self, epoch: int | None, seconds: float) -> None:
        """Kill it with SIGKILL, some time after the checkpoint of an epoch is there."""
        saved = f"results_dir/*/*/checkpoint_model/model_*_E{epoch}.pth"
        while epoch is not None and not list(self.folder.glob(saved)):
            assert self.process.poll() is None, "it ended before"
            time.sleep(0.01)
        time.sleep(seconds)
        self.process.kill()
        self.process.communicate(timeout=30)
        assert self.process.returncode == -signal.SIGKILL


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    (tmp_path / "s3").mkdir()
    server = S3(tmp_path / "s3", bucket="cloud_results")
    yield server
    server.kill()


@pytest.mark.parametrize("loop", LOOPS if FULL else LOOPS[-1:])
def test_a_killed_sample_ends_as_one_that_was_not(loop: str, s3: S3, tmp_path: Path) -> None:
    """A-77, A-20: with SIGKILL; loops without checkpoints start anew."""
    sample(loop)  # skips where the document or the data are not there
    with Program(tmp_path / "whole", s3, loop) as program:
        expected = program.result()
    folder, continues, draws = tmp_path / "killed", None, random.Random(3)
    for epoch in KILLS:
        with Program(folder, s3, loop, continues) as program:
            if "Checkpoint" not in loop:
                program.kill(None, draws.uniform(2, 5))
                continue
            program.kill(epoch, draws.uniform(0, 0.2))
        continues = newest(folder)
    with Program(folder, s3, loop, continues) as program:
        assert program.result() == expected
    for experiment in folder.glob("results_dir/train_loop_examples/*"):
        if (experiment / ".mirror").exists() and "Checkpoint" in loop:
            there = hashes(s3.bucket / "train_loop_examples" / experiment.name)
            del there["checksums.json"]
            assert there == hashes(experiment)


def newest(folder: Path) -> str:
    """Return the time of the experiment that was saved last."""
    models = folder.glob("results_dir/*/*/checkpoint_model/*.pth")
    latest = max(models, key=lambda path: path.stat().st_mtime)
    return latest.parts[-3].split("_example_")[1]

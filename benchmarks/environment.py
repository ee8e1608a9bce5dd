"""The environment that the benchmarks run in: `.venv-bench`, made on first use and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-bench"
PYTHON = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = "benchmarks/requirements.txt"
INPUTS = [REQUIREMENTS, "constraints.txt", "pyproject.toml"]


def enter() -> None:
    """Continues this very command inside the environment; returns when already there."""
    if Path(sys.prefix).resolve() == FOLDER.resolve():
        return
    prepare()
    os.execv(PYTHON, [str(PYTHON), *sys.argv])


def prepare() -> None:
    """Makes the environment, unless what it was made from is unchanged."""
    stamp = FOLDER / "made-from"
    contents = "".join((ROOT / name).read_text(encoding="utf-8") for name in INPUTS)
    digest = hashlib.sha256((sys.version + contents).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    print(f"Making {FOLDER.name} (a few minutes, once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    (FOLDER / ".gitignore").write_text("*\n", encoding="utf-8")
    pip(
        "install", "-q", "--no-compile", "-c", "constraints.txt", "-e", ".[cli]", "-r", REQUIREMENTS
    )
    drop_broken_torchvision()
    stamp.write_text(digest, encoding="utf-8")


def drop_broken_torchvision() -> None:
    """Removes torchvision where its build does not fit torch's, as then lightning fails to import.

    fastai asks for torchvision, and the one on PyPI does not load beside a CPU build of torch. None
    of the workloads needs it.
    """
    command = [str(PYTHON), "-c", "import torchvision"]
    if subprocess.run(command, capture_output=True).returncode != 0:
        print("torchvision does not load beside this torch: removed", flush=True)
        pip("uninstall", "-q", "-y", "torchvision")


def pip(*arguments: str) -> None:
    """Runs pip inside the environment."""
    subprocess.run([str(PYTHON), "-m", "pip", *arguments], cwd=ROOT, check=True)

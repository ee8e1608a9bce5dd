"""What a run ran on: versions, hardware, and the revision of the code around it."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("loopwright", "torch", "numpy", "safetensors")


def describe_environment() -> dict[str, Any]:
    """Return versions, hardware and the git revision of the working directory, as plain values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "cores": _available_cores(),
            "threads": torch.get_num_threads(),
        },
        "memory_bytes": _memory_bytes(),
        "devices": _devices(),
        "git": describe_git(Path.cwd()),
    }


def describe_git(folder: Path) -> dict[str, Any] | None:
    """Return revision and whether files differ from it; None outside of a repository."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine, or a repository too slow to wait for
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)  # names the build too, which the metadata may not
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    if sys.platform == "linux":
        try:
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _devices() -> list[str]:
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []

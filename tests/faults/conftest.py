"""The server that the fault tests start their processes from, and a small disk."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.runner import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 3 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, timeout=20).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting takes rights that this process has not")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=20)

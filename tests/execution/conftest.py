"""Programs without a compiler, and a folder for what is cached."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from step_programs import run_uncompiled


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Path:
    """Give the folder of cached decisions and programs; slow tests share one, to compile once."""
    folder = tmp_path / "cache"
    if request.node.get_closest_marker("slow"):
        folder = Path(tempfile.gettempdir(), f"loopwright-tests-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    return folder


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let traced graphs run as they are, operation by operation; return those that were made."""
    return run_uncompiled(monkeypatch)

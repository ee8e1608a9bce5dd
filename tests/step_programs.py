"""What tests of captured steps share: programs without a compiler, and a choice that tries all."""

from typing import Any

import pytest

from loopwright.execution import auto


def run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let traced graphs run as they are, operation by operation; return those that are made."""
    made: list[Any] = []

    def keep(graph: Any, inputs: Any, folder: Any) -> Any:
        made.append(graph)
        return graph

    monkeypatch.setattr("loopwright.execution.building.compile_graph", keep)
    return made


def try_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` capture whatever can be captured, and short measurements do."""
    monkeypatch.setattr(auto, "FEWEST_STEPS", 1)
    monkeypatch.setattr(auto, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(auto, "SECONDS_TO_COMPILE", (-9.0, 0.0, 0.0))
    monkeypatch.setattr(auto, "SECONDS_TO_LOAD", -9.0)
    monkeypatch.setattr(auto, "_SECONDS_TO_MEASURE", 0.01)
    monkeypatch.setattr(auto, "_seconds_per_call", lambda: auto._SECONDS_PER_CALL)

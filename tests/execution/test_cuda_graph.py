"""The calls that make and replay a CUDA graph, in order; a recorder stands in for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from loopwright.execution.cuda_graph import GraphedCall
from loopwright.execution.graphs import Draw


class Recorder:
    """Is what is used of `torch.cuda`: notes each call, and replays what was recorded."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.body: Any = None

    def get_rng_state(self) -> torch.Tensor:
        self.calls.append("get_rng_state")
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor) -> None:
        self.calls.append("set_rng_state")
        torch.set_rng_state(state)

    def Stream(self) -> "_Stream":
        return _Stream(self, "side")

    def current_stream(self) -> "_Stream":
        return _Stream(self, "current")

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.calls.append("enter side")
        yield
        self.calls.append("leave side")

    def CUDAGraph(self) -> "_Graph":
        return _Graph(self)

    @contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        self.calls.append("capture")
        yield
        self.calls.append("captured")


class _Stream:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder, self.name = recorder, name

    def wait_stream(self, other: "_Stream") -> None:
        self.recorder.calls.append(f"{self.name} waits for {other.name}")


class _Graph:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def replay(self) -> None:
        self.recorder.calls.append("replay")
        self.recorder.body()


def make(draws: tuple[Draw, ...] = ()) -> tuple[Recorder, Any, torch.Tensor]:
    recorder, weight = Recorder(), torch.zeros(2)
    outputs = torch.zeros(2)

    def call(weight: torch.Tensor, inputs: torch.Tensor, *drawn: torch.Tensor) -> Any:
        recorder.calls.append("run")
        weight.add_(inputs)
        outputs.copy_(weight + sum(each.sum() for each in drawn))
        return [outputs]

    graphed = GraphedCall(call, draws, cuda=recorder)
    recorder.body = graphed._run
    return recorder, graphed, weight


def test_a_graph_is_recorded_once_after_warm_up_and_then_replayed() -> None:
    recorder, graphed, weight = make()
    first = graphed([weight], [torch.tensor([1.0, 2.0])])
    assert recorder.calls == [
        "get_rng_state",
        "side waits for current",
        "enter side",
        *["run"] * 3,
        "leave side",
        "current waits for side",
        "set_rng_state",
        "capture",
        "run",
        "captured",
        "replay",
        "run",
    ]
    recorder.calls.clear()
    graphed([weight], [torch.tensor([10.0, 20.0])])
    assert recorder.calls == ["replay", "run"]
    assert first[0].tolist() != [11.0, 22.0], "outputs are copies, a replay overwrites its own"


def test_runs_before_the_recording_count_for_nothing() -> None:
    """On a device the recorded run executes nothing; here it does, so it is taken back."""
    recorder, graphed, weight = make()

    @contextmanager
    def graph(made: Any) -> Iterator[None]:
        before = weight.clone()
        yield
        weight.copy_(before)

    recorder.graph = graph  # type: ignore[method-assign]
    outputs = graphed([weight], [torch.tensor([1.0, 2.0])])
    assert weight.tolist() == outputs[0].tolist() == [1.0, 2.0]


def test_draws_are_made_inside_the_graph_anew_in_each_replay() -> None:
    draw = Draw(torch.ops.aten.bernoulli_.float, torch.empty(64), (0.5,), {})
    recorder, graphed, weight = make((draw,))
    torch.manual_seed(0)
    sums = {float(graphed([weight], [torch.zeros(2)])[0][0]) for _ in range(6)}
    assert len(sums) > 1


def test_tensors_that_moved_make_another_graph() -> None:
    recorder, graphed, weight = make()
    graphed([weight], [torch.ones(2)])
    recorder.calls.clear()
    graphed([torch.zeros(2)], [torch.ones(2)])
    assert "capture" in recorder.calls

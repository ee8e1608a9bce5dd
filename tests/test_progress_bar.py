"""The progress bar: what it writes, and how rarely."""

import io
import sys
from types import ModuleType

import pytest

from loopwright import progress_bar
from loopwright.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_bar, "time", clock)
    return clock


def count(bar: ProgressBar, clock: Clock, steps: int, seconds_per_step: float) -> None:
    for _ in range(steps):
        clock.now += seconds_per_step
        bar.count += 1
        if clock.now >= bar.next_draw:
            bar.draw()


def test_it_draws_on_a_clock(clock: Clock) -> None:
    stream = Terminal()
    bar = ProgressBar("train", 1000, stream)
    count(bar, clock, 1000, 0.001)
    assert 5 <= stream.getvalue().count("\r") <= 11
    bar.close()
    last = stream.getvalue().split("\r")[-1]
    assert "train" in last
    assert "1,000/1,000" in last
    assert "1,000 it/s" in last
    assert last.endswith("\n")


def test_elsewhere_it_is_one_line(clock: Clock) -> None:
    stream = io.StringIO()
    bar = ProgressBar("eval", 10, stream)
    bar.note = "loss 0.5"
    count(bar, clock, 10, 9.0)
    assert stream.getvalue() == ""
    bar.close()
    assert stream.getvalue().count("\n") == 1
    assert "\r" not in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()
    assert "1:30" in stream.getvalue()


def test_a_total_that_nobody_knows(clock: Clock) -> None:
    stream = Terminal()
    bar = ProgressBar("train", None, stream)
    count(bar, clock, 3, 1.0)
    bar.close()
    assert "  3  " in stream.getvalue()
    assert "/3" not in stream.getvalue()


def test_a_shorter_line_covers_a_longer_one(clock: Clock) -> None:
    stream = Terminal()
    bar = ProgressBar("train", 2, stream)
    bar.note = "a long note"
    bar.draw()
    bar.note = ""
    bar.draw()
    first, second = stream.getvalue().split("\r")[1:]
    assert len(second) >= len(first)


def test_a_stream_without_unicode_gets_plain_signs(clock: Clock) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    bar = ProgressBar("train", 2, stream)
    bar.count = 1
    bar.close()
    assert b"#" in raw.getvalue()


@pytest.mark.parametrize(("seconds", "shown"), [(59.6, "1:00"), (3725.0, "1:02:05")])
def test_durations(clock: Clock, seconds: float, shown: str) -> None:
    stream = io.StringIO()
    bar = ProgressBar("train", 1, stream)
    clock.now += seconds
    bar.close()
    assert shown in stream.getvalue()


def test_a_process_that_imported_ipykernel_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script or a test may import it, or nbclient, which does: only a kernel shows a notebook."""
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    stream = io.StringIO()
    bar = ProgressBar("train", 2, stream)
    assert bar.next_draw == float("inf")
    bar.close()
    assert "\r" not in stream.getvalue()

"""A progress bar that redraws on a clock: counting costs nothing a person could notice."""

import sys
import time
from typing import TextIO

_SECONDS_BETWEEN_DRAWS = 0.1
_WIDTH = 24


class ProgressBar:
    """Shows how far an epoch is, on a terminal or in a notebook; elsewhere one line at its end.

    Args:
        title: What is being done.
        total: How many batches there will be; None when nobody knows.
        stream: Where to draw; standard error by default.
    """

    def __init__(self, title: str, total: int | None, stream: TextIO | None = None) -> None:
        self.title = title
        self.total = total
        self.count = 0
        self.note = ""
        self._stream = stream or sys.stderr
        self._redraws = self._stream.isatty() or _is_in_notebook(self._stream)
        self._begin = time.perf_counter()
        self.next_draw = self._begin if self._redraws else float("inf")
        """When to draw again, on the clock of `time.perf_counter`."""
        self._drawn = 0

    def draw(self) -> None:
        """Draw the bar over the one drawn before."""
        self.next_draw = time.perf_counter() + _SECONDS_BETWEEN_DRAWS
        line = self._line()
        self._stream.write("\r" + line.ljust(self._drawn))
        self._stream.flush()
        self._drawn = len(line)

    def close(self) -> None:
        """Draw the bar for the last time and end its line."""
        if self._redraws:
            self.draw()
            self._stream.write("\n")
        else:
            self._stream.write(self._line() + "\n")
        self._stream.flush()
        self.next_draw = float("inf")

    def _line(self) -> str:
        seconds = time.perf_counter() - self._begin
        rate = self.count / seconds if seconds else 0.0
        parts = [self.title, self._scale(), f"{_duration(seconds)}", f"{rate:,.0f} it/s", self.note]
        return "  ".join(part for part in parts if part)

    def _scale(self) -> str:
        if self.total is None:
            return f"{self.count:,}"
        filled = round(_WIDTH * min(1.0, self.count / max(1, self.total)))
        bar = "━" * filled + "─" * (_WIDTH - filled)
        if not _can_encode(bar, self._stream):
            bar = "#" * filled + "." * (_WIDTH - filled)
        return f"{bar} {self.count:,}/{self.total:,}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _can_encode(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _is_in_notebook(stream: TextIO) -> bool:
    return type(stream).__module__.partition(".")[0] == "ipykernel"

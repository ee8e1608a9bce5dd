"""Calling trackers without waiting for them: a thread and a bounded queue for each."""

import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from loopwright.checkpoint import write_aside
from loopwright.plain_values import MASK, mask_secrets
from loopwright.run_record import PICTURES_FOLDER
from loopwright.trackers.base import Tracker

MAX_WAITING = 1000
"""Calls that may wait for a tracker; what comes beyond is left out."""
SILENT_SECONDS = 30.0
"""How long a call may take before it is told that the tracker does not answer."""
END_SECONDS = 30.0
"""How long the end of a run waits for its trackers, all together."""
STOPPING_SECONDS = 10.0
"""The same for a run that is stopped from outside."""
FAILING_SECONDS = 5.0
"""How long it waits for a tracker whose calls all fail, from the first of them."""


class TrackerList(Tracker):
    """Passes what is logged to several trackers, and returns at once.

    A tracker whose calls fail, last or pile up is told of once in a run, on standard error.

    Args:
        trackers: by the names to tell of them by.
        secrets: what they were given that is not to be shown.
    """

    def __init__(self, trackers: Mapping[str, Tracker], secrets: Collection[str] = ()) -> None:
        self._trackers = dict(trackers)
        self._secrets = secrets
        self._couriers: list[_Courier] = []
        self._busy: list[_Courier] = []
        self._folder: Path | None = None
        self.drawn: dict[str, int] = {}
        """When each figure was drawn, in nanoseconds, by the name of its file."""

    def __iter__(self) -> Iterator[Tracker]:
        return iter(self._trackers.values())

    def __len__(self) -> int:
        return len(self._trackers)

    def __getitem__(self, index: int) -> Tracker:
        return list(self)[index]

    def start(self, run_id: str, logdir: str) -> None:
        self._busy = [each for each in (*self._busy, *self._couriers) if each.is_alive()]
        busy = {courier.name for courier in self._busy}
        self._couriers = [
            _Courier(name, tracker, self._secrets) for name, tracker in self._trackers.items()
        ]
        for courier in self._couriers:
            courier.refuse() if courier.name in busy else courier.start()
        self._folder = Path(logdir)
        self._pass("start", run_id, logdir)

    def log_tag(self, name: str, value: Any) -> None:
        self._pass("log_tag", name, value)

    def log_asset(self, name: str, path: str) -> None:
        self._pass("log_asset", name, path)

    def log_image(self, name: str, path: str) -> None:
        self._pass("log_image", name, path)

    def log_figure(self, name: str, figure: Any) -> None:
        """Draw the figure into the folder of the run, whose report shows it, and pass the picture.

        It is drawn here and now, and so may be changed or closed afterwards.
        """
        path = self._require_folder() / PICTURES_FOLDER / f"{name.replace('/', '-')}.png"
        write_aside(path, lambda aside: figure.savefig(aside, format="png"))
        self.drawn[path.name] = path.stat().st_mtime_ns
        self._pass("log_image", name, str(path))

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        self._pass("log_metric", name, value, step)

    def log_param(self, name: str, value: Any, step: int | None = None) -> None:
        self._pass("log_param", name, value, step)

    def check(self) -> None:
        """Tell of trackers that have not answered for long."""
        for courier in self._couriers:
            courier.check()

    def end(self, seconds: float | None = None) -> None:
        """Wait for the trackers; one that was told of as silent is not waited for.

        Args:
            seconds: How long, for all together; `END_SECONDS` where it is None.
        """
        self._pass("end")
        self._folder = None
        seconds = END_SECONDS if seconds is None else seconds
        deadline = time.monotonic() + seconds
        for courier in self._couriers:
            courier.wait(deadline)
            if courier.is_alive():
                courier.tell(f"has not taken everything {seconds:g} seconds after the end")

    def _pass(self, method: str, *arguments: Any) -> None:
        self._require_folder()
        for courier in self._couriers:
            courier.post(method, *arguments)

    def _require_folder(self) -> Path:
        if self._folder is None:
            raise RuntimeError("Trackers take what is logged while a run goes on, and none does.")
        return self._folder


class _Courier(threading.Thread):
    """Makes the calls of one tracker, in order; it does not keep the program from ending.

    Args:
        name: of the tracker.
        tracker: whose methods are called.
        secrets: what is masked where the tracker is told of.
    """

    def __init__(self, name: str, tracker: Tracker, secrets: Collection[str]) -> None:
        super().__init__(name=name, daemon=True)
        self._tracker = tracker
        self._secrets = secrets
        self._calls: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._state = threading.Condition()
        self._began: float | None = None
        self._failing_since: float | None = None
        self._is_told = self._is_silent = self._takes_no_more = False

    def run(self) -> None:
        method = ""
        while method != "end" and not self._takes_no_more:
            with self._state:
                self._state.wait_for(lambda: self._calls)
                method, arguments = self._calls.popleft()
                self._began = time.monotonic()
            try:
                getattr(self._tracker, method)(*arguments)
                self._failing_since = None
            except BaseException as error:  # of any kind: nothing that a tracker does ends a run
                self._failing_since = self._failing_since or time.monotonic()
                self._takes_no_more = method == "start"
                self.tell(f"failed: {type(error).__name__}: {error}")
            self._began = None

    def post(self, method: str, *arguments: Any) -> None:
        with self._state:
            if self._takes_no_more:
                return
            if has_room := len(self._calls) < MAX_WAITING or method == "end":
                self._calls.append((method, arguments))
                self._state.notify()
        if not has_room:
            self.tell(f"is too slow: {MAX_WAITING} calls wait, and what comes beyond is left out")

    def check(self) -> None:
        began = self._began
        if began is not None and time.monotonic() - began > SILENT_SECONDS:
            self._is_silent = True
            self.tell(f"has not answered for {SILENT_SECONDS:g} seconds")

    def wait(self, deadline: float) -> None:
        self.check()
        while self.is_alive() and not self._is_silent and time.monotonic() < deadline:
            if self._failing_since is not None:
                deadline = min(deadline, self._failing_since + FAILING_SECONDS)
            self.join(0.02)

    def refuse(self) -> None:
        self._takes_no_more = True
        self.tell("is still busy with the run before, and gets nothing of this one")

    def tell(self, what: str) -> None:
        with self._state:
            if self._is_told:
                return
            self._is_told = True
        line = mask_secrets(f"Tracker {self.name} {what}".rstrip(": .").partition("\n")[0])
        for secret in self._secrets:
            line = line.replace(secret, MASK)
        sys.stderr.write(f"{line}. Training does not wait for it; the run folder holds all.\n")

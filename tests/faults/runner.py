"""Runs jobs of the fault tests, each in a process of its own that signals may end.

The server imports torch once and never trains itself, so that it has no threads when it forks.
"""

import faulthandler
import hashlib
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
FULL = os.environ.get("LOOPWRIGHT_FAULTS") == "full"
"""Whether the tests run in their full form."""


class Server:
    """Forks a process for each job, from one that has imported all that a job needs."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        source = str(TESTS.parent / "src")
        paths = [str(TESTS), source, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "faults.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def run(self, kind: str, *, timeout: float = 120, **arguments: Any) -> dict[str, Any]:
        """Run a job and return how its process ended, and what it reported.

        Args:
            kind: A name in `JOBS`.
            timeout: Seconds after which the process is killed, which fails the test.
            arguments: For the job; `kill_after` seconds of life end with SIGKILL.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = {"kind": kind, "timeout": timeout, "arguments": arguments}
        self._process.stdin.write(json.dumps(line, default=str) + "\n")
        self._process.stdin.flush()
        try:
            ready, _, _ = select.select([self._process.stdout], [], [], timeout + 60)
            assert ready, f"the server did not answer about {line}"
            ended: dict[str, Any] = json.loads(self._process.stdout.readline())
        except BaseException:  # of a test that takes too long; the next one gets another server
            self.close()
            self._start()
            raise
        assert not ended["timed_out"], f"{line} was still running after {timeout} s:\n{ended}"
        return ended

    def close(self) -> None:
        """End the server and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:  # closes the pipes
            self._process.wait(timeout=30)


def serve() -> None:
    """Read jobs from the standard input, and write how each ended."""
    from faults import jobs

    for line in sys.stdin:
        job = json.loads(line)
        log = Path(os.environ.get("TMPDIR", "/tmp")) / f"fault-{os.getpid()}-{random.random()}"
        pid = os.fork()
        if pid == 0:
            _be_the_job(log, getattr(jobs, job["kind"]), dict(job["arguments"]))
        print(json.dumps(_wait(pid, log, job)), flush=True)


def _be_the_job(log: Path, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Do a job in a forked process, and end it."""
    arguments.pop("kill_after", None)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.dump_traceback_later(50)  # for the output of a job that hangs
    code = 0
    try:
        report = function(**arguments)
        log.with_suffix(".report").write_text(json.dumps(report, default=str))
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 9
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, log: Path, job: dict[str, Any]) -> dict[str, Any]:
    began, timed_out = time.monotonic(), False
    kill_after = job["arguments"].get("kill_after")
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        alive = time.monotonic() - began
        timed_out = alive > job["timeout"]
        if timed_out or (kill_after is not None and alive > kill_after):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            break
        time.sleep(0.005)
    report = log.with_suffix(".report")
    ended = {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "timed_out": timed_out,
        "output": log.read_text()[-4000:] if log.exists() else "",
        "report": json.loads(report.read_text()) if report.exists() else None,
    }
    log.unlink(missing_ok=True)
    report.unlink(missing_ok=True)
    return ended


def digest(value: Any) -> str:
    """Return a hash of a tree of plain values and tensors, to the bit."""
    import torch

    hashed = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            hashed.update(f"{item.dtype}{list(item.shape)}".encode())
            hashed.update(
                item.detach().contiguous().view(torch.uint8).numpy().tobytes()
                if item.ndim
                else repr(item.item()).encode()
            )
        elif isinstance(item, dict):
            for key in item:
                hashed.update(repr(key).encode())
                add(item[key])
        elif isinstance(item, (list, tuple)):
            hashed.update(str(len(item)).encode())
            for each in item:
                add(each)
        else:
            hashed.update(repr(item).encode())

    add(value)
    return hashed.hexdigest()


def peak_memory() -> int:
    """Return the most bytes this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    serve()

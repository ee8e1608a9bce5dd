"""The lock on a run's folder: one process at a time, let go by whatever ends it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_data, tiny_trainer

from loopwright.errors import RunFolderError
from loopwright.events import TrainerCallback
from loopwright.run_lock import locked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")

HOLD = """\
import os, sys
from loopwright.run_lock import locked

with locked(sys.argv[1]):
    if os.fork() == 0:  # a worker that outlives the process
        print(os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Return a process that holds the folder `run`, and has a worker."""
    source = str(Path(__file__).parents[1] / "src")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": source}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_who_holds_the_folder(
    holder: Any, tmp_path: Path
) -> None:
    folder, host = tmp_path / "run", os.uname().nodename
    who = rf"is in use by process {holder.pid} on {host}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\."
    with pytest.raises(RunFolderError, match=who), locked(folder):
        pass
    for resume in (None, "latest"):
        with pytest.raises(RunFolderError, match=who):
            tiny_trainer(run_dir=folder).train(tiny_data(), 1, resume=resume)
    assert os.listdir(folder) == [".lock"]
    holder.send_signal(signal.SIGKILL)
    holder.wait(20)
    tiny_trainer(run_dir=folder).train(tiny_data(), 1)  # though the worker lives
    assert (folder / ".lock").read_bytes() == b""


class Rival(TrainerCallback):
    """Tries to go on with the run from another thread, while it is trained."""

    def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        about = json.loads((trainer.run_dir / ".lock").read_text())
        assert (about["pid"], about["host"]) == (os.getpid(), os.uname().nodename)
        self.error = ""
        thread = threading.Thread(target=self._try, args=(trainer.run_dir,))
        thread.start()
        thread.join(60)

    def _try(self, folder: Path) -> None:
        try:
            tiny_trainer(run_dir=folder).train(tiny_data(), 1, resume="latest")
        except RunFolderError as error:
            self.error = str(error)


def test_a_second_thread_is_refused(tmp_path: Path) -> None:
    rival = Rival()
    tiny_trainer(run_dir=tmp_path, callbacks=[rival]).train(tiny_data(), 1)
    assert f"is in use by process {os.getpid()}" in rival.error


def test_the_thread_that_holds_a_folder_may_ask_again(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path / ".." / tmp_path.name):
        tiny_trainer(run_dir=tmp_path).train(tiny_data(), 1)
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path):
        tiny_trainer(run_dir=tmp_path).train(tiny_data(), 1)
    assert capsys.readouterr().out.count("has no locks (No locks available)") == 1


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds no run"):
        tiny_trainer(run_dir=tmp_path).train(tiny_data(), 1)
    assert os.listdir(tmp_path) == ["thesis.txt"]

"""Copies of runs on real servers that are stopped, slow, or cut; and runs that are killed."""

import hashlib
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.runner import FULL, Server
from faults.servers import S3, GoogleStorage, Line, holds_secret
from faults.task import NUM_STEPS

pytestmark = pytest.mark.faults

URL = "s3://bucket/run"


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    (tmp_path / "s3").mkdir()
    server = S3(tmp_path / "s3")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Report of the run that has no copy."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    report: dict[str, Any] = server.run("train", folder=folder)["report"]
    return report


def hashes(folder: Path) -> dict[str, str]:
    """Return the checksum of every visible file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }


def check_copy(bucket: Path, folder: Path) -> None:
    """Compare what the server has on its disk with the folder, and with its own list."""
    there = hashes(bucket / "run")
    del there["checksums.json"]
    assert there == hashes(folder)
    listed = json.loads((bucket / "run" / "checksums.json").read_text())["files"]
    for name, versions in listed.items():
        assert [each["sha256"] for each in versions] == [there[name]], name
    data = {name for name in there if "/" in name and not name.endswith("manifest.json")}
    assert set(there) - data == set(listed)
    secret = [path for path in folder.rglob("*") if path.is_file() and holds_secret(path)]
    assert not secret


def train(server: Server, folder: Path, environment: dict[str, str], **options: Any) -> Any:
    options = {"pause": 0.0, "wait": 60, "url": URL, **options}
    return server.run("copied", folder=folder, environment=environment, timeout=200, **options)


def check_run(ended: dict[str, Any], whole: dict[str, Any]) -> None:
    assert ended["report"] is not None, ended
    assert ended["report"]["error"] is None, ended
    assert ended["report"]["outcome"] == whole["outcome"]
    assert ended["report"]["log"] == whole["log"]


def test_the_server_is_stopped_in_mid_run(
    server: Server, s3: S3, whole: dict[str, Any], tmp_path: Path
) -> None:
    """The run goes on at its pace meanwhile, and the copy ends complete."""
    outage, pause = (60.0, 0.6) if FULL else (5.0, 0.08)
    window: list[float] = []

    def stop_and_start() -> None:
        while not (s3.bucket / "run" / "checkpoints" / "step-00000014").exists():
            time.sleep(0.01)
        s3.kill()
        window.append(time.time())
        time.sleep(outage)
        window.append(time.time())
        s3.start()

    stopper = threading.Thread(target=stop_and_start, daemon=True)
    stopper.start()
    ended = train(server, tmp_path / "run", s3.environment(), pause=pause)
    stopper.join(timeout=30)
    check_run(ended, whole)
    assert len(window) == 2, ended
    done = [when for when in ended["report"]["times"] if window[0] < when < window[1]]
    assert len(done) >= 0.5 * outage / pause  # half as a margin for a busy machine
    gaps = [after - before for before, after in zip(done, done[1:], strict=False)]
    assert max(gaps) < 0.5 * outage
    check_copy(s3.bucket, tmp_path / "run")


def test_killed_in_mid_upload(
    server: Server, s3: S3, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Over a slow line the upload is behind; what is there is whole at once, and ends complete.

    The run goes on in its folder, or from its copy in another one, as on another machine.
    """
    draws, num_behind = random.Random(1), 0
    for trial in range(20 if FULL else 2):
        url, folder = f"{URL}/{trial}", tmp_path / f"run-{trial}"
        line = Line(s3.port, lambda number: "slow")
        step = draws.randrange(30, NUM_STEPS)
        behind = s3.environment(line.port)
        ended = train(server, folder, behind, url=url, pause=0.02, kill_at=step)
        line.close()
        assert ended["signal"] == signal.SIGKILL, ended
        copy = server.run(
            "fetched", url=url, folder=tmp_path / f"got-{trial}", environment=s3.environment()
        )["report"]
        assert copy["error"] is None, copy
        newest = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))[-1]
        num_behind += newest not in copy["steps"]
        if trial % 2 and copy["steps"]:
            folder = tmp_path / f"elsewhere-{trial}"
        ended = train(server, folder, s3.environment(), url=url)
        check_run(ended, whole)
        check_copy_at(s3.bucket, str(trial), folder)
    assert num_behind > 0


def check_copy_at(bucket: Path, name: str, folder: Path) -> None:
    there = hashes(bucket / "run" / name)
    del there["checksums.json"]
    assert there == hashes(folder)


@pytest.mark.parametrize("fault", ["refused", "503", "slow", "cut"])
def test_a_line_that_is_disturbed(
    fault: str, server: Server, s3: S3, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Every second connection has the fault, once the first ones have begun the copy."""
    line = Line(
        s3.port,
        lambda number: fault if number > 6 and number % 2 else None,
        most_bytes=None if fault == "slow" else 100_000,
    )
    ended = train(server, tmp_path / "run", s3.environment(line.port), pause=0.01, wait=150)
    line.close()
    check_run(ended, whole)
    assert line.num_faults > (0 if fault == "slow" else 2)
    check_copy(s3.bucket, tmp_path / "run")


def test_a_large_file_that_is_cut_in_mid_upload(server: Server, s3: S3, tmp_path: Path) -> None:
    """It goes up in parts of 8 MiB."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.pt").write_bytes(random.Random(2).randbytes(25 * 2**20))
    line = Line(s3.port, lambda number: "cut" if 1 < number < 6 else None)
    ended = server.run("push", folder=folder, url=URL, environment=s3.environment(line.port))
    line.close()
    assert ended["report"]["error"] is None, ended
    assert line.num_faults == 4
    check_copy(s3.bucket, folder)


def test_wrong_credentials_are_refused_without_showing_them(
    server: Server, s3: S3, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    wrong = s3.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong-secret-value"}
    report = server.run("push", folder=folder, url=URL, environment=wrong)["report"]
    assert "s3://bucket/run cannot be used: PermissionError" in report["error"]
    assert "wrong-secret" not in json.dumps(report)
    missing = server.run("push", folder=folder, url="s3://none/x", environment=s3.environment())
    assert "s3://none/x cannot be used: FileNotFoundError" in missing["report"]["error"]


def test_google_storage(server: Server, whole: dict[str, Any], tmp_path: Path) -> None:
    """An emulator that starts late: refused connections first; then a whole copy."""
    google = GoogleStorage(tmp_path)
    google.kill()
    starter = threading.Timer(3, google.start)
    starter.start()
    folder, url = tmp_path / "run", "gs://bucket/run"
    try:
        ended = train(server, folder, google.environment(), url=url, pause=0.03)
        starter.join()
        check_run(ended, whole)
        (folder / "model.pt").write_bytes(random.Random(2).randbytes(12 * 2**20))
        environment = google.environment()
        pushed = server.run("push", folder=folder, url=url, environment=environment)["report"]
        assert pushed["error"] is None
        back = tmp_path / "back"
        copy = server.run("fetched", url=url, folder=back, environment=environment)["report"]
        assert copy["error"] is None
        assert hashes(back) == hashes(folder)
    finally:
        starter.join()
        google.kill()

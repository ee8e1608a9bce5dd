"""A copy of a folder at a URL: in order, through outages, and whole whenever it is cut off."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from loopwright.checkpoint import read_state, write_state
from loopwright.errors import StorageError
from loopwright.storage import Backoff, Mirror, fetch, fetch_checkpoint, open_storage
from loopwright.storage.index import read_index
from storage.wires import Wire, wire

__all__ = ["wire"]

URL = "wire://bucket/run"
QUICK = Backoff(first_seconds=0.001, most_seconds=0.002)


def checkpoint(folder: Path, step: int) -> None:
    weights = torch.full((20,), float(step))
    write_state(folder / "checkpoints" / f"step-{step:08d}", {"model": {"w": weights}})


def write(folder: Path, name: str, text: str) -> None:
    """Replace a file as a run does."""
    folder.mkdir(exist_ok=True)
    (folder / f".{name}").write_text(text)
    (folder / f".{name}").replace(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    write(folder, "metrics.jsonl", "1\n")
    checkpoint(folder, 1)
    write(folder, "status.json", "{}")
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the visible files of a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        n: p.read_bytes()
        for n, p in names.items()
        if not any(part.startswith(".") for part in n.split("/"))
    }


def sync(mirror: Mirror) -> list[str]:
    """Bring a copy up to date, and return what is told."""
    told: list[str] = []
    mirror.push(told.append, seconds=20)
    return told


def puts(wire: type[Wire]) -> list[str]:
    names = [name.removeprefix("/bucket/run/") for what, name in wire.asked if what == "put"]
    return [name for name in names if name != "checksums.json"]


def test_a_copy_is_equal_and_ordered(wire: type[Wire], folder: Path, tmp_path: Path) -> None:
    """Data first, then the manifest; the status last of all."""
    assert sync(Mirror(URL, folder)) == []
    step = "checkpoints/step-00000001"
    names = [f"{step}/{name}" for name in ("model.safetensors", "state.json", "manifest.json")]
    assert puts(wire) == ["metrics.jsonl", *names, "status.json"]
    assert files_in(fetch(URL, tmp_path / "back")) == files_in(folder)


def test_only_what_changed_is_sent(wire: type[Wire], folder: Path) -> None:
    mirror = Mirror(URL, folder)
    sync(mirror)
    wire.asked.clear()
    sync(mirror)
    assert puts(wire) == []
    write(folder, "metrics.jsonl", "1\n2\n")
    sync(mirror)
    assert puts(wire) == ["metrics.jsonl"]
    wire.asked.clear()
    sync(Mirror(URL, folder))  # as in a later process
    assert puts(wire) == []


def test_old_checkpoints_leave_when_a_newer_one_has_arrived(wire: type[Wire], folder: Path) -> None:
    mirror, storage = Mirror(URL, folder), open_storage(URL)
    sync(mirror)
    storage.write("checkpoints/mine.txt", b"not of the run")
    checkpoint(folder, 2)
    shutil.rmtree(folder / "checkpoints" / "step-00000001")
    wire.asked.clear()
    sync(mirror)
    manifests = [(what, n) for what, n in wire.asked if n.endswith("manifest.json")]
    assert [what for what, _ in manifests] == ["put", "rm"]
    left = {name.split("/")[1] for name in storage.list("checkpoints")}
    assert left == {"step-00000002", "mine.txt"}
    shutil.rmtree(folder / "checkpoints")  # such as a folder that was cleaned up by hand
    sync(mirror)
    assert storage.exists("checkpoints/step-00000002/manifest.json")


def test_a_checkpoint_that_is_removed_meanwhile_arrives_whole(
    wire: type[Wire], folder: Path, tmp_path: Path
) -> None:
    """Else a slow line would never finish one before the run clears it away."""
    step = folder / "checkpoints" / "step-00000001"

    def clear(what: str, name: str) -> None:
        if what == "put" and name.endswith("model.safetensors") and step.exists():
            shutil.rmtree(step)

    wire.on_call = clear
    sync(Mirror(URL, folder))
    fetch(URL, tmp_path / "back")
    assert read_state(tmp_path / "back" / "checkpoints" / "step-00000001")


def test_an_outage_is_told_once_and_caught_up(wire: type[Wire], folder: Path) -> None:
    mirror = Mirror(URL, folder, backoff=QUICK)
    sync(mirror)
    failures = []

    def down(what: str, name: str) -> None:
        failures.append(name)
        if len(failures) < 30:
            raise ConnectionRefusedError("refused")

    wire.on_call = down
    checkpoint(folder, 2)
    told = sync(mirror)
    assert len(failures) > 30
    assert [line.split(",")[0] for line in told] == [
        f"{URL} cannot be written",
        f"{URL} is complete again.",
    ]
    assert open_storage(URL).exists("checkpoints/step-00000002/manifest.json")


def test_what_is_left_is_told_with_the_way_to_send_it(wire: type[Wire], folder: Path) -> None:
    def down(what: str, name: str) -> None:
        raise ConnectionRefusedError("refused")

    wire.on_call = down
    mirror, told = Mirror(URL, folder, backoff=QUICK, wait_seconds=0.05), []
    mirror.begin(told.append)
    mirror.finish(told.append)
    assert "3 of 3 files and checkpoints" in told[-1]
    assert "ConnectionRefusedError: refused" in told[-1]
    assert f"loopwright push {folder}" in told[-1]
    wire.on_call = None
    assert mirror.wait(20)
    assert Mirror(URL, folder)._left().startswith("3 of 3")
    assert mirror._left().startswith("0 of 3")


class _Cut(BaseException):
    """Ends what is being done, as the end of the process would."""


@pytest.mark.parametrize("replaces", [False, True])
def test_cut_off_at_every_request_the_copy_is_sound(
    wire: type[Wire], folder: Path, tmp_path: Path, replaces: bool
) -> None:
    """Whatever the last request was, what can be fetched is whole, and a later process goes on."""
    sync(Mirror(URL, folder))
    before, first = dict(wire.store), files_in(folder)
    write(folder, "metrics.jsonl", "1\n2\n")
    if replaces:
        write_state(folder / "checkpoints" / "step-00000001", {"model": {"w": torch.zeros(3)}})
    else:
        checkpoint(folder, 2)
        shutil.rmtree(folder / "checkpoints" / "step-00000001")
    write(folder, "status.json", '{"status": "finished"}')
    num_cuts = 0
    while True:
        wire.clear()
        wire.store.update(before)
        left = [num_cuts]

        def cut(what: str, name: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise _Cut
            left[0] -= 1

        wire.on_call = cut
        mirror = Mirror(URL, folder)
        try:
            mirror._send_changes()
            break
        except _Cut:
            wire.on_call = None
        got = files_in(fetch(URL, tmp_path / f"got-{num_cuts}"))
        now = files_in(folder)
        assert all(content in (first.get(name), now.get(name)) for name, content in got.items())
        steps = {name.rpartition("/")[0] for name in got if name.startswith("checkpoints")}
        assert steps or replaces
        for step in steps:
            read_state(tmp_path / f"got-{num_cuts}" / step)
        if got["status.json"] != first["status.json"]:
            assert set(now) <= set(got)
        sync(Mirror(URL, folder))
        index = read_index(open_storage(URL))
        assert index is not None
        assert all(len(versions) == 1 for versions in index.files.values())
        assert files_in(fetch(URL, tmp_path / f"end-{num_cuts}")) == now
        num_cuts += 1
    assert num_cuts > 20


def test_a_damaged_local_checkpoint_is_not_copied(wire: type[Wire], folder: Path) -> None:
    (folder / "checkpoints" / "step-00000001" / "model.safetensors").write_bytes(b"x")
    told = sync(Mirror(URL, folder))
    assert len(told) == 1
    assert "step-00000001 is not copied: model.safetensors is damaged" in told[0]
    assert sorted(puts(wire)) == ["metrics.jsonl", "status.json"]


@pytest.mark.parametrize("other", ["copy", "files"])
def test_the_folder_of_something_else_is_refused(
    other: str, wire: type[Wire], folder: Path, tmp_path: Path
) -> None:
    if other == "copy":
        shutil.copytree(folder, tmp_path / "other")
        sync(Mirror(URL, tmp_path / "other"))
    else:
        open_storage(URL).write("notes.txt", b"mine")
    before = {name: file.getvalue() for name, file in wire.store.items()}
    expected = "holds the copy of another run" if other == "copy" else "is not empty and holds no"
    with pytest.raises(StorageError, match=expected):
        Mirror(URL, folder).begin(print)
    assert {name: file.getvalue() for name, file in wire.store.items()} == before


def test_what_no_attempt_mends_is_refused_at_once(wire: type[Wire], folder: Path) -> None:
    def deny(what: str, name: str) -> None:
        raise PermissionError("no such key")

    wire.on_call = deny
    with pytest.raises(StorageError, match=r"wire://bucket/run cannot be used: .*no such key"):
        Mirror(URL, folder).begin(print)


def test_no_secret_is_stored_or_told(wire: type[Wire], folder: Path) -> None:
    def down(what: str, name: str) -> None:
        raise ConnectionError("to wire://me:hunter22@bucket/run and s3cr3tkey")

    wire.on_call = down
    options = {"secret_key": "s3cr3tkey"}
    url = "wire://me:hunter22@bucket/run"
    mirror, told = Mirror(url, folder, options=options, backoff=QUICK, wait_seconds=0.02), []
    mirror.begin(told.append)
    mirror.finish(told.append)
    wire.on_call = None
    assert mirror.wait(20)
    texts = [*told, repr(mirror.url), *(p.read_text("latin-1") for p in folder.rglob("*.json"))]
    texts += [file.getvalue().decode("latin-1") for file in wire.store.values()]
    assert any("***" in text for text in told)
    assert not [text for text in texts if "hunter22" in text or "s3cr3t" in text]
    with pytest.raises(StorageError, match="whose secret was not stored"):
        Mirror.of(folder)
    assert (folder / ".mirror").stat().st_mode & 0o077 == 0


def test_a_folder_knows_its_copy(wire: type[Wire], folder: Path) -> None:
    assert Mirror.of(folder) is None
    sync(Mirror(URL, folder))
    again = Mirror.of(folder)
    assert again is not None
    assert again.url == URL
    assert json.loads((folder / ".mirror" / "copy.json").read_text())["url"] == URL


def test_fetching_names_what_is_damaged_and_brings_the_rest(
    wire: type[Wire], folder: Path, tmp_path: Path
) -> None:
    checkpoint(folder, 2)
    sync(Mirror(URL, folder))
    wire.store["/bucket/run/checkpoints/step-00000002/model.safetensors"].write(b"spoilt")
    del wire.store["/bucket/run/metrics.jsonl"]
    told: list[str] = []
    with pytest.raises(StorageError, match="2 files could not be fetched") as caught:
        fetch(URL, tmp_path / "back", tell=told.append)
    assert "step-00000002/model.safetensors is damaged" in str(caught.value)
    assert "metrics.jsonl is missing" in str(caught.value)
    assert len(told) == 2
    steps = list((tmp_path / "back" / "checkpoints").iterdir())
    assert [step.name for step in steps] == ["step-00000001"]


def test_fetching_goes_on_where_it_was_cut_off(
    wire: type[Wire], folder: Path, tmp_path: Path
) -> None:
    sync(Mirror(URL, folder))

    def cut(what: str, name: str) -> None:
        if name.endswith("state.json"):
            raise _Cut

    wire.on_call = cut
    with pytest.raises(_Cut):
        fetch(URL, tmp_path / "back")
    got: list[str] = []
    wire.on_call = lambda what, name: got.append(name) if what == "get" else None
    fetch(URL, tmp_path / "back")
    assert not [name for name in got if name.endswith("model.safetensors")]
    assert files_in(tmp_path / "back") == files_in(folder)
    with pytest.raises(StorageError, match="holds something else"):
        fetch(URL, folder.parent)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", ".ssh/evil", "a/../b"])
def test_a_list_cannot_place_files_elsewhere(name: str, wire: type[Wire], tmp_path: Path) -> None:
    files = {name: [{"bytes": 1, "sha256": "0"}]}
    content = json.dumps({"format": 1, "id": "x", "files": files})
    open_storage(URL).write("checksums.json", content.encode())
    with pytest.raises(StorageError, match="can be no file of its folder"):
        fetch(URL, tmp_path / "back")


def test_the_newest_checkpoint_of_a_copy(
    wire: type[Wire], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint(folder, 12)
    sync(Mirror(URL, folder))
    newest = read_state(fetch_checkpoint(URL))
    assert newest["model"]["w"][0] == 12
    named = read_state(fetch_checkpoint(f"{URL}/checkpoints/step-00000001"))
    assert named["model"]["w"][0] == 1
    with pytest.raises(StorageError, match=r"wire://bucket/none holds no checkpoint"):
        fetch_checkpoint("wire://bucket/none")

"""Damaged and hostile checkpoints: refused by name, harmless, and never executed."""

import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from faults.runner import FULL, Server, digest
from loopwright.checkpoint import read_state
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.checkpoint_store import CheckpointStore
from loopwright.errors import CheckpointError

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def run_folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "run"
    ended = server.run("train", folder=folder, kill_at=30, number=15)  # which waits for the disk
    assert ended["report"]["error"] == "RunInterrupted"
    assert sorted(os.listdir(folder / "checkpoints")) == ["step-00000028", "step-00000030"]
    return folder


# ---------------------------------------------------------------------------------- damage


def flip(path: Path, draws: random.Random, other: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draws.choice([1, 3])):
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)


def cut(path: Path, draws: random.Random, other: Path) -> None:
    os.truncate(path, draws.randrange(path.stat().st_size))


def grow(path: Path, draws: random.Random, other: Path) -> None:
    with path.open("ab") as file:
        file.write(draws.randbytes(draws.randint(1, 5000)))


def swap(path: Path, draws: random.Random, other: Path) -> None:
    """With the file of this name from another checkpoint."""
    if path.name != "manifest.json":
        shutil.copy(other / path.name, path)


def exchange(path: Path, draws: random.Random, other: Path) -> None:
    """With another file of the same checkpoint."""
    shutil.copy(draws.choice(sorted(path.parent.iterdir())), path.parent / "aside")
    os.replace(path.parent / "aside", path)


def blank(path: Path, draws: random.Random, other: Path) -> None:
    content = bytearray(path.read_bytes())
    start = draws.randrange(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


def head(path: Path, draws: random.Random, other: Path) -> None:
    """Claim a header of another size."""
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", draws.choice([0, 2**31, 2**63])) + content[8:])


def lose(path: Path, draws: random.Random, other: Path) -> None:
    path.unlink()


DAMAGES: list[Callable[[Path, random.Random, Path], None]] = [
    flip, cut, grow, swap, exchange, blank, head, lose
]  # fmt: skip


def read(folder: Path) -> tuple[str, str]:
    """Return a hash of the state, or what is wrong with it."""
    try:
        return digest(read_state(folder)), ""
    except CheckpointError as error:
        return "", str(error)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_damaged_copies(damage: Callable[..., None], run_folder: Path, tmp_path: Path) -> None:
    checkpoints = run_folder / "checkpoints"
    good, other = checkpoints / "step-00000030", checkpoints / "step-00000028"
    expected, draws, refused = digest(read_state(good)), random.Random(1), 0
    assert expected != digest(read_state(other))
    for number in range(125 if FULL else 13):
        copy = tmp_path / f"step-{number:08d}"
        shutil.copytree(good, copy)
        path = draws.choice(sorted(copy.iterdir()))
        damage(path, draws, other)
        found, error = read(copy)
        assert error or found == expected, path
        if error:
            refused += 1
            assert str(copy) in error
            assert path.name in error or path.name == "manifest.json", error
        shutil.rmtree(copy)
    assert refused


def test_the_last_good_one_is_offered(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    said: list[str] = []
    store = CheckpointStore(tmp_path / "run" / "checkpoints", CheckpointPolicy(), said.append)
    with (store.folder / "step-00000030" / "model.safetensors").open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    found = store.read_latest()
    assert found is not None
    assert found[0].name == "step-00000028"
    assert "step-00000030/model.safetensors is damaged" in said[0]


# --------------------------------------------------------------------------------- hostile


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def sign(folder: Path) -> None:
    """Let the manifest agree with what lies in the folder, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.iterdir()
        if path.name != "manifest.json" and path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def header(entries: Any, *, size: int | None = None, body: bytes = b"\0" * 16) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


def hostile_tensors(witness: Path) -> dict[str, bytes]:
    bomb = pickle.dumps(Bomb(witness))
    return {
        "pickle": bomb,
        "pickle 2": pickle.dumps(Bomb(witness), protocol=2),
        "pickle in the body": header(tensor(), body=bomb),
        "zip": b"PK\x03\x04" + bomb,
        "empty": b"",
        "header of 2**63": header(tensor(), size=2**63),
        "header of 2**62": header(tensor(), size=2**62),
        "header of 2**32": header(tensor(), size=2**32),
        "header of 99 MB": header(tensor(), size=99_000_000),
        "shape of 2**60": header(tensor(shape=[2**60])),
        "shape that overflows": header(tensor(shape=[2**32, 2**32])),
        "shape of many": header(tensor(shape=[2] * 10_000)),
        "negative shape": header(tensor(shape=[-4])),
        "offsets past the end": header(tensor(data_offsets=[0, 2**50])),
        "offsets backwards": header(tensor(data_offsets=[16, 0])),
        "negative offsets": header(tensor(data_offsets=[-16, 0])),
        "no such dtype": header(tensor(dtype="PICKLE")),
        "deep header": header(b"[" * 200_000 + b"]" * 200_000),
        "deeper header": header(b'{"a":' * 100_000),
        "header of text": header(b'"a"'),
        "header of nothing": header(b""),
        "name of a path": header({"../../evil": tensor()["a"]}),
        "overlap": header({**tensor(), "b": tensor()["a"]}),
        "long name": header({"a" * 1_000_000: tensor()["a"]}),
    }


def hostile_trees() -> dict[str, bytes]:
    return {
        "deep lists": b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        "deep dicts": b'{"a":' * 300_000 + b"1" + b"}" * 300_000,
        "deep tuples": b'{"a":' + b'{"$tuple":[' * 50_000 + b"]}" * 50_000 + b"}",
        "long number": b'{"a":' + b"9" * 1_000_000 + b"}",
        "list at the top": b"[]",
        "number at the top": b"1",
        "no JSON": b"\x80\x04\x95",
        "no such tensor": b'{"a":{"$tensor":"model/none"}}',
        "no such part": b'{"a":{"$tensor":"../../etc/passwd"}}',
        "tensor of a number": b'{"a":{"$tensor":3}}',
        "array of a list": b'{"a":{"$array":[]}}',
        "bytes of a number": b'{"a":{"$bytes":3}}',
        "items of a number": b'{"a":{"$items":3}}',
        "items that are no pairs": b'{"a":{"$items":[[1]]}}',
        "unhashable keys": b'{"a":{"$items":[[[],1]]}}',
        "tuple of none": b'{"a":{"$tuple":null}}',
        "wrong padding": b'{"a":{"$bytes":"a"}}',
        "many lists": b'{"a":[' + b"[]," * 3_000_000 + b"[]]}",
        "many dicts": b'{"a":[' + b'{"a":1},' * 1_000_000 + b"{}]}",
        "wide text": '{"a":["\U0001f600'.encode() + b"a" * 30_000_000 + b'"]}',
        "list of a list": b'{"a":{"$list":[]}}',
        "list of nothing": b'{"a":{"$list":"model/none"}}',
    }


def hostile_exports(witness: Path) -> dict[str, Callable[[Path], None]]:
    """Return what writes each file; those of torch.save hold records below a folder."""
    bomb = pickle.dumps({"a": Bomb(witness)}, protocol=2)
    plain = pickle.dumps({"a": "a" * 1_000_000}, protocol=2)
    large = pickle.dumps({"a": "a" * 200_000_000}, protocol=2)
    array = pickle.dumps({"a": Grows()}, protocol=2)
    storage = pickle.dumps({"a": 1}, protocol=2)[:-2] + b"c__builtin__\neval\n."
    files: dict[str, Callable[[Path], None]] = {
        name: (lambda path, c=content: path.write_bytes(c))
        for name, content in {
            "no archive": bomb,
            "no archive 4": pickle.dumps(Bomb(witness)),
            "half an archive": b"PK\x03\x04" + bomb,
            "empty": b"",
        }.items()
    }
    archives: dict[str, tuple[bytes, dict[str, bytes], int]] = {
        "code": (bomb, {}, zipfile.ZIP_STORED),
        "code behind numbers": (storage, {}, zipfile.ZIP_STORED),
        "climbs": (plain, {"../../evil": b"evil"}, zipfile.ZIP_STORED),
        "climbs inside": (plain, {"a/../../evil": b"evil"}, zipfile.ZIP_STORED),
        "absolute": (plain, {"/evil": b"evil"}, zipfile.ZIP_STORED),
        "climbs on Windows": (plain, {"a\\..\\evil": b"evil"}, zipfile.ZIP_STORED),
        "packed 1000 times": (large, {}, zipfile.ZIP_DEFLATED),
        "packed on the side": (plain, {"a/data/0": bytes(200_000_000)}, zipfile.ZIP_DEFLATED),
        "absurd bytearray": (array, {}, zipfile.ZIP_STORED),
        "cut": (plain[:-2], {}, zipfile.ZIP_STORED),
        "no pickle": (b"\xff" * 100, {}, zipfile.ZIP_STORED),
        "absurd text": (b"\x80\x02X\xff\xff\xff\x7fa.", {}, zipfile.ZIP_STORED),
    }
    for name, (content, others, compression) in archives.items():
        files[name] = partial(
            write_archive, content=content, others=others, compression=compression
        )
    return files


class Grows:
    def __reduce__(self) -> Any:
        return (bytearray, (10**9,))


def write_archive(path: Path, content: bytes, others: dict[str, bytes], compression: int) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, each in {"a/data.pkl": content, "a/version": b"3\n", **others}.items():
            archive.writestr(name, each)


def test_hostile_exports(server: Server, tmp_path: Path) -> None:
    """Files as of `save_checkpoint`: nothing executed or written, no memory beyond their size."""
    witness, folder = tmp_path / "witness", tmp_path / "files"
    folder.mkdir()
    for number, (name, write) in enumerate(hostile_exports(witness).items()):
        path = folder / f"{number}.pt"
        write(path)
        size = path.stat().st_size
        ended = server.run("read_export", path=path, timeout=30)
        assert ended["report"] is not None, (name, ended)
        assert str(path) in (ended["report"]["error"] or ""), name
        assert ended["report"]["memory"] < size + 64 * 2**20, name
        assert not witness.exists(), name
        path.unlink()
    assert os.listdir(tmp_path) == ["files"]
    assert os.listdir(folder) == []


NO_FILE = {"bytes": 4, "sha256": sha256(b"evil").hexdigest()}


def hostile_manifests(outside: Path) -> dict[str, Any]:
    names = [
        "../evil.safetensors", str(outside), "..", ".", "", "a/b.safetensors", "a\0.safetensors",
        "/dev/zero", "x" * 5000,
    ]  # fmt: skip
    return {
        **{f"name {name[:20]!r}": {name: NO_FILE} for name in names},
        "size of a text": {"state.json": {"bytes": "1", "sha256": 2}},
        "no sizes": {"state.json": None},
        "list": ["state.json"],
        "number": 3,
    }


def test_hostile_files(server: Server, run_folder: Path, tmp_path: Path) -> None:
    """Well over fifty, each with checksums that agree where it can have them."""
    good = run_folder / "checkpoints" / "step-00000030"
    witness, outside = tmp_path / "witness", tmp_path / "copies" / "evil.safetensors"
    outside.parent.mkdir()
    outside.write_bytes(b"evil")
    cases: list[tuple[str, Callable[[Path], None]]] = []
    for name, content in hostile_tensors(witness).items():
        cases.append((name, lambda copy, c=content: replace(copy, "model.safetensors", c)))
    for name, content in hostile_trees().items():
        cases.append((name, lambda copy, c=content: replace(copy, "state.json", c)))
    for name, files in hostile_manifests(outside).items():
        cases.append((name, lambda copy, f=files: list_files(copy, f)))
    cases += [(each.__name__, each) for each in (pipe, link, link_to_zero, huge, wide)]
    assert len(cases) >= 50
    harmless = {"pickle in the body", "long name"}
    for number, (name, spoil) in enumerate(cases):
        copy = tmp_path / "copies" / str(number)
        shutil.copytree(good, copy)
        spoil(copy)
        size = sum(p.stat().st_size for p in copy.iterdir() if p.is_file() and not p.is_symlink())
        ended = server.run("read", folder=copy, timeout=30)
        assert ended["report"] is not None, (name, ended)
        if name not in harmless:
            assert ended["report"]["error"], name
            assert str(copy) in ended["report"]["error"], name
        assert ended["report"]["memory"] < size + 64 * 2**20, name
        assert not witness.exists(), name
        shutil.rmtree(copy)
    assert outside.read_bytes() == b"evil"
    assert sorted(os.listdir(tmp_path)) == ["copies"]


def replace(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    sign(copy)


def list_files(copy: Path, files: Any) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    if isinstance(files, dict):
        files = {**manifest["files"], **files}
    (copy / "manifest.json").write_text(json.dumps({**manifest, "files": files}))


def pipe(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")


def link(copy: Path) -> None:
    shutil.move(copy / "model.safetensors", copy.parent / "elsewhere")
    (copy / "model.safetensors").symlink_to(copy.parent / "elsewhere")


def link_to_zero(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").symlink_to("/dev/zero")


def huge(copy: Path) -> None:
    """A sparse file of a terabyte."""
    os.truncate(copy / "manifest.json", 2**40)


def wide(copy: Path) -> None:
    (copy / "manifest.json").write_bytes(b"[" + b"[]," * 2_000_000 + b"[]]")

"""Sealed test sets: hashes, duplicates exact and near, and the record of evaluations."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright.errors import SealedTestSetError
from loopwright.sealed import Seal, find_duplicates, hash_samples

DRAW = np.random.default_rng(0)
IMAGES = DRAW.random((60, 1, 16, 16)).astype(np.float32)
TABLE = DRAW.normal(size=(60, 5)) * [1, 10, 100, 1000, 10_000]
TEXTS = [" ".join(DRAW.choice(["ant", "bee", "cat", "dog", "elk", "fox"], 20)) for _ in range(60)]


def test_a_hash_is_that_of_the_samples_in_any_order_and_form() -> None:
    found = hash_samples(IMAGES)
    assert hash_samples(IMAGES[::-1]) == found
    assert hash_samples(torch.from_numpy(IMAGES)) == found
    assert hash_samples(IMAGES.astype(np.float64)) == found
    assert hash_samples(IMAGES[1:]) != found
    assert hash_samples(np.concatenate([IMAGES, IMAGES[:1]])) != found
    assert hash_samples(TEXTS) == hash_samples(np.array(TEXTS))
    assert hash_samples(["a", "b"]) != hash_samples(["a", "c"])


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "int64", "uint64", "float16", "float32", "float64"]
)
def test_the_type_of_numbers_changes_neither_hash_nor_duplicates(dtype: str) -> None:
    whole = DRAW.integers(0, 256, (20, 6, 6)).astype(np.uint8)
    assert hash_samples(whole.astype(dtype)) == hash_samples(whole)
    assert len(find_duplicates(whole[:5].astype(dtype), whole).exact) == 5
    listed = [torch.from_numpy(image) for image in whole]
    assert hash_samples(whole.astype(dtype)) == hash_samples(listed)
    if np.dtype(dtype).kind == "f":
        shares = (whole / 256).astype(dtype)
        assert hash_samples(shares.astype(np.float64)) == hash_samples(shares)


def test_what_equals_itself_has_one_hash() -> None:
    """Zero with a sign, a missing value of any bits, and a sum in float64 and in float32."""
    nan = np.array([0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)
    assert hash_samples(np.array([[0.0, nan[0]]])) == hash_samples(np.array([[-0.0, nan[1]]]))
    assert hash_samples(np.array([[0.1, -1e-60]])) == hash_samples(np.float32([[0.1, 0.0]]))
    assert hash_samples(np.array([[True, False]])) == hash_samples(np.array([[1, 0]]))


@pytest.mark.parametrize("number", [2**24, 2**53, 2**60, 2.0**24])
def test_whole_numbers_that_differ_are_no_duplicates(number: Any) -> None:
    """Such as times and identities, which float32 does not tell apart."""
    first, second = np.array([[number]]), np.array([[number + 1]])
    assert hash_samples(first) != hash_samples(second)
    assert find_duplicates(first, second).exact == ()


def test_a_whole_number_that_a_type_can_hold_has_one_hash_in_it() -> None:
    """float32 holds each up to 2**24, and float64 each up to 2**53; others they round."""
    for largest, types in ((2**24, ["int32", "float32", "float64"]), (2**53, ["int64", "float64"])):
        rows = [np.array([[largest, 1], [-largest, 2]]).astype(each) for each in types]
        assert len({hash_samples(each) for each in rows}) == 1
    for number, dtype in ((2**24 + 1, np.float32), (2**53 + 1, np.float64)):
        assert hash_samples(np.array([[number]])) != hash_samples(np.array([[number]], dtype))


def test_a_row_of_large_numbers_changes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array([[2**60, 1], [5, 6], [-(2**63), 7]])
    assert find_duplicates(rows, np.array([[5.0, 6.0]])).exact == ((1, 0),)
    whole = hash_samples(rows)
    monkeypatch.setattr("loopwright.sealed._CHUNK_NUMBERS", 3)
    assert hash_samples(rows) == whole


@pytest.mark.parametrize("samples", [IMAGES, TABLE, TEXTS, torch.from_numpy(TABLE)])
def test_what_is_in_both_is_found(samples: Any) -> None:
    found = find_duplicates(samples[:40], samples[30:])
    assert found.exact == tuple((30 + n, n) for n in range(10))
    assert found.near == ()
    assert found.rows == list(range(30, 40))
    assert find_duplicates(samples[:30], samples[30:]).rows == []


def test_images_of_many_sizes_are_compared_exactly() -> None:
    images = [torch.from_numpy(IMAGES[n, :, : 8 + n % 3]) for n in range(20)]
    found = find_duplicates(images[:12], images[10:])
    assert (found.exact, found.near) == (((10, 0), (11, 1)), ())


def test_images_that_were_changed_a_little_are_near() -> None:
    noise = DRAW.normal(size=IMAGES[:10].shape).astype(np.float32)
    for strength, count in ((0.005, 10), (0.1, 0)):
        found = find_duplicates(IMAGES[:10] + strength * noise, IMAGES)
        assert found.exact == ()
        assert found.near == tuple((n, n) for n in range(count))


def test_columns_of_a_table_count_alike() -> None:
    """One of large numbers does not hide that the others differ."""
    near = TABLE[:4].copy()
    near *= 1 + 1e-3
    assert [row for row, _ in find_duplicates(near, TABLE).near] == [0, 1, 2, 3]
    other = TABLE[:4].copy()
    other[:, 0] += 2
    assert find_duplicates(other, TABLE).rows == []


@pytest.mark.parametrize(
    ("text", "is_near"),
    [
        ("The cat SAT on the mat, and the dog lay beside it.", True),
        ("the cat sat on the mat and the dog lay beside it today", True),
        ("the dog sat on the mat and the cat lay beside it", False),
        ("something else", False),
    ],
)
def test_texts_that_share_most_words_in_their_order_are_near(text: str, is_near: bool) -> None:
    test = ["an unrelated sentence", "the cat sat on the mat and the dog lay beside it"]
    assert find_duplicates([text], test).near == (((0, 1),) if is_near else ())


def test_sequences_of_tokens_are_compared_as_words_and_padding_is_none() -> None:
    tokens = DRAW.integers(1, 50, (20, 30))
    tokens[:, 20:] = 0
    changed = tokens[:5].copy()
    changed[:, 0] += 50
    assert find_duplicates(changed, tokens).near == tuple((n, n) for n in range(5))
    assert find_duplicates(DRAW.integers(1, 50, (5, 30)) * (np.arange(30) < 20), tokens).rows == []


def test_images_of_whole_numbers_are_compared_by_distance() -> None:
    images = DRAW.integers(100, 256, (20, 8, 8))
    brighter = images[:5] + np.arange(8) % 2
    assert find_duplicates(brighter, images).near == tuple((n, n) for n in range(5))


def test_nothing_is_no_duplicate() -> None:
    assert find_duplicates([], TEXTS).rows == []
    assert find_duplicates(TABLE, TABLE[:0]).rows == []


def test_the_projection_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of many pixels are first compared in fewer numbers; all pairs say the same."""
    monkeypatch.setattr("loopwright.sealed._CHUNK", 7)
    noisy = IMAGES + DRAW.normal(size=IMAGES.shape) * DRAW.uniform(0, 0.03, (60, 1, 1, 1))
    mean = IMAGES.mean(0)
    limits = 0.05 * np.sqrt(np.square(IMAGES - mean).sum((1, 2, 3)))
    apart = np.sqrt(np.square(noisy - IMAGES).sum((1, 2, 3)))
    expected = np.flatnonzero(apart <= limits)
    assert 5 < len(expected) < 55
    assert find_duplicates(noisy, IMAGES).rows == expected.tolist()


def test_a_seal_counts_evaluations_across_processes(tmp_path: Path) -> None:
    path = tmp_path / "test.seal.json"
    assert "evaluation 1." in Seal(path, TABLE).count("first", {"f1": 0.5})
    line = Seal(path, TABLE[::-1]).count("second", {"f1": 0.6})
    assert "evaluation 2 (the first was of first, " in line
    record = json.loads(path.read_text())
    assert record["sha256"] == hash_samples(TABLE) == Seal(path, TABLE).sha256
    assert record["samples"] == 60
    assert [each["model"] for each in record["evaluations"]] == ["first", "second"]


def test_an_evaluation_that_ended_meanwhile_is_counted(tmp_path: Path) -> None:
    first, second = (Seal(tmp_path / "test.seal.json", TABLE) for _ in range(2))
    first.count("first", {})
    assert "evaluation 2 (the first was of first" in second.count("second", {})


COUNT = """\
import sys
from loopwright.sealed import Seal

print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    Seal(sys.argv[1], ["a", "b"]).count(f"{sys.argv[2]}-{number}", {})
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_evaluations_of_processes_at_once_are_all_counted(tmp_path: Path) -> None:
    path = tmp_path / "test.seal.json"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    counted = {each["model"] for each in Seal(path, ["a", "b"]).evaluations}
    assert counted == {f"{name}-{number}" for name in "ab" for number in range(40)}


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match="No locks available.*Run one after the other"):
        seal = Seal(tmp_path / "test.seal.json", TABLE)
    with pytest.warns(UserWarning, match="may not be counted"):
        assert "evaluation 1." in seal.count("first", {})


@contextmanager
def without_rights() -> Iterator[None]:
    """Be another user than root, for whom every file can be written."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def sealed_by_another() -> Iterator[Path]:
    """Return the seal of `TABLE` in a folder for all, whose files others cannot write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test.seal.json")
        Seal(path, TABLE).count("first", {})
        for each in path.parent.iterdir():
            each.chmod(0o444)
        path.parent.chmod(0o777)
        yield path
        path.parent.chmod(0o777)


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_users_of_a_folder_count_on_one_seal(sealed_by_another: Path) -> None:
    with without_rights():
        assert "evaluation 2 " in Seal(sealed_by_another, TABLE).count("second", {})
    assert len(Seal(sealed_by_another, TABLE).evaluations) == 2


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
@pytest.mark.parametrize("has_lock", [True, False])
def test_a_folder_that_cannot_be_written_is_read_and_no_count_is_lost(
    sealed_by_another: Path, has_lock: bool
) -> None:
    folder = sealed_by_another.parent
    if not has_lock:
        (folder / ".test.seal.json.lock").unlink()
    folder.chmod(0o555)
    with without_rights():
        seal = Seal(sealed_by_another, TABLE)
        assert len(seal.evaluations) == 1
        with pytest.raises(SealedTestSetError, match="cannot be written .*denied.* not recorded"):
            seal.count("second", {})
        with pytest.raises(SealedTestSetError, match="other.json cannot be written"):
            Seal(folder / "other.json", TABLE)
    assert len(Seal(sealed_by_another, TABLE).evaluations) == 1


def test_a_seal_refuses_other_samples_and_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "test.seal.json"
    Seal(path, TABLE)
    before = path.read_bytes()
    with pytest.raises(SealedTestSetError, match="seals 60 samples .* and these 59 have"):
        Seal(path, TABLE[1:])
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [1, 3])
def test_a_seal_of_another_format_is_told_as_such_and_kept(tmp_path: Path, number: int) -> None:
    path = tmp_path / "test.seal.json"
    Seal(path, TABLE).count("first", {})
    text = json.dumps(json.loads(path.read_text()) | {"format": number, "sha256": "0" * 64})
    path.write_text(text)
    with pytest.raises(SealedTestSetError, match=f"of format {number}, .* 1 evaluations.* anew"):
        Seal(path, TABLE)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', "nonsense"])
def test_a_damaged_seal_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "test.seal.json"
    path.write_text(text)
    with pytest.raises(SealedTestSetError, match="is no seal, or is damaged"):
        Seal(path, TABLE)
    assert path.read_text() == text


def test_a_refusal_counts_both_kinds_and_names_rows(tmp_path: Path) -> None:
    seal = Seal(tmp_path / "a.json", TABLE[:20])
    training = TABLE.copy()
    training[15:20] *= 1 + 1e-3
    with pytest.raises(SealedTestSetError) as refused:
        seal.check(training, "The training set")
    told = str(refused.value)
    assert "The training set (60 samples)" in told
    assert "15 exact (row 0 is row 0 of the test set, ...)" in told
    assert "5 near (row 15 is row 15" in told
    assert "Take rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (20 in all) out of it" in told
    seal.check(TABLE[20:], "The rest")

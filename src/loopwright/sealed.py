"""Sealed test sets: what was trained may not hold their samples, and each evaluation is counted."""

import hashlib
import json
import os
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopwright.checkpoint import write_text_aside
from loopwright.errors import SealedTestSetError

if sys.platform != "win32":
    import fcntl

__all__ = ["Duplicates", "Seal", "find_duplicates", "hash_samples"]

FORMAT = 2  # 1 hashed whole numbers and others in different ways
NEAR = 0.05
"""Numbers: the largest distance of a near duplicate, relative to how far the sample itself is from
the mean of its set."""
NEAR_TEXT = 0.8
"""Texts: the least share of common triples of words (Broder 1997, "On the resemblance and
containment of documents")."""

_SKETCH = 64  # numbers that a sample is projected to before distances are compared
_SLACK = 1.6  # what a distance of projections may exceed the true one by, far beyond chance
_CHUNK = 4096
_CHUNK_NUMBERS = 2**20
_MOST_WHOLE = 2**53  # beyond it float64 leaves out whole numbers

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows (of the samples, of the test set) that are the same, or nearly so."""

    exact: tuple[tuple[int, int], ...] = ()
    near: tuple[tuple[int, int], ...] = ()

    @property
    def rows(self) -> list[int]:
        """The rows of the samples that are in a pair, in order."""
        return sorted({row for row, _ in (*self.exact, *self.near)})

    def __str__(self) -> str:
        return ", ".join(
            f"{len(pairs)} {kind} (row {pairs[0][0]} is row {pairs[0][1]} of the test set"
            f"{', ...' if len(pairs) > 1 else ''})"
            for kind, pairs in (("exact", self.exact), ("near", self.near))
            if pairs
        )


def hash_samples(samples: Any, targets: Any = None) -> str:
    """Return the SHA-256 of samples, whatever their order and the type of their numbers.

    Whole numbers are hashed as they are, and others as float32 has them, so that samples have one
    hash as integers, float32 and float64. A type that had to round them makes others of them, which
    are hashed as such: float32 does so to whole numbers from 2**24 (times, large identities),
    float64 from 2**53, and float16 to most.

    Args:
        samples: an array or tensor [samples, ...], or a list of texts or of tensors.
        targets: those of the samples likewise, which are then part of the hash.
    """
    rows = _digests(samples)
    if targets is not None:
        rows = [row + target for row, target in zip(rows, _digests(targets), strict=True)]
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def find_duplicates(
    samples: Any, test: Any, *, near: float = NEAR, near_text: float = NEAR_TEXT
) -> Duplicates:
    """Return which samples are in a test set, and which nearly are; the first match of each.

    Samples are the same where their numbers are, in whatever type they are stored (see
    `hash_samples`). Numbers are compared by distance, columns of tables in units of their standard
    deviation. Texts are compared by triples of words, and so are rows of integers [samples,
    length], which are taken for sequences of tokens: a table of integers is compared by distance
    as floats. Of tensors in a list, such as images of many sizes, only exact duplicates are found.

    Args:
        samples: an array or tensor [samples, ...], or a list of texts or of tensors.
        test: likewise, with samples of the same shape.
        near: see `NEAR`.
        near_text: see `NEAR_TEXT`.
    """
    if not len(samples) or not len(test):
        return Duplicates()
    places: dict[bytes, int] = {}
    for place, digest in enumerate(_digests(test)):
        places.setdefault(digest, place)
    exact = [
        (row, places[digest]) for row, digest in enumerate(_digests(samples)) if digest in places
    ]
    found = {row for row, _ in exact}
    if isinstance(test, list) and not isinstance(test[0], str):
        pairs: list[tuple[int, int]] = []
    elif isinstance(test, list) or _are_sequences(np.asarray(test)):
        pairs = _near_sequences(_sequences(samples), _sequences(test), near_text)
    else:
        pairs = _near_numbers(_as_rows(samples), _as_rows(test), near, np.ndim(test) == 2)
    return Duplicates(tuple(exact), tuple(pair for pair in pairs if pair[0] not in found))


def _are_sequences(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "U" or (array.dtype.kind == "i" and array.ndim == 2)


def _digests(samples: Any) -> list[bytes]:
    """Return a digest of each sample."""
    if isinstance(samples, list):
        rows = [
            each.encode() if isinstance(each, str) else _bytes(np.asarray(each).reshape(1, -1))[0]
            for each in samples
        ]
    else:
        array = np.asarray(samples)
        if array.dtype.kind == "U":
            return _digests(array.tolist())
        array = array.reshape(len(array), -1)
        size = max(1, _CHUNK_NUMBERS // max(1, array.shape[1]))
        chunks = (array[begin : begin + size] for begin in range(0, len(array), size))
        rows = [row for chunk in chunks for row in _bytes(chunk)]
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def _bytes(rows: NDArray[Any]) -> list[bytes]:
    """Return the same for equal rows [samples, numbers] of any type (see `hash_samples`)."""
    values = rows.astype(np.float64)
    broken = values != np.rint(values)
    values[broken] = values[broken].astype(np.float32)
    values[np.isnan(values)] = np.nan  # there are many, as there are two zeros
    values += 0.0
    found = [row.tobytes() for row in values]
    if rows.dtype.kind in "iu":
        too_large = ((rows > _MOST_WHOLE) | (rows < -_MOST_WHOLE)).any(axis=1)
        for index in np.flatnonzero(too_large):
            found[index] = rows[index].astype(np.int64).tobytes()
    return found


def _as_rows(samples: Any) -> Floats:
    array = np.nan_to_num(np.asarray(samples, np.float64))
    return array.reshape(len(array), -1)


def _near_numbers(
    samples: Floats, test: Floats, near: float, is_table: bool
) -> list[tuple[int, int]]:
    mean = test.mean(axis=0)
    scale = test.std(axis=0) if is_table else np.ones(len(mean))
    scale = np.where(scale > 0, scale, 1.0)
    samples, test = (samples - mean) / scale, (test - mean) / scale
    limits = near * np.linalg.norm(test, axis=1)
    width, slack = test.shape[1], 1.0
    sketches = samples, test
    if width > _SKETCH:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), (width, _SKETCH)) / _SKETCH**0.5
        sketches, slack = (samples @ signs, test @ signs), _SLACK
    pairs = []
    for begin in range(0, len(samples), _CHUNK):
        chunk = sketches[0][begin : begin + _CHUNK]
        apart = np.square(chunk).sum(1)[:, None] + np.square(sketches[1]).sum(1)
        apart -= 2 * chunk @ sketches[1].T
        for row, place in np.argwhere(apart <= np.square(slack * limits) + 1e-9):
            if np.linalg.norm(samples[begin + row] - test[place]) <= limits[place]:
                pairs.append((int(begin + row), int(place)))
    return _first_of_each(pairs)


def _first_of_each(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return list({row: (row, place) for row, place in reversed(pairs)}.values())[::-1]


def _sequences(samples: Any) -> list[list[Any]]:
    if isinstance(samples, list):
        return [re.findall(r"\w+", text.casefold()) for text in samples]
    array = np.asarray(samples)
    if array.dtype.kind == "U":
        return _sequences(array.tolist())
    rows: list[list[Any]] = array.reshape(len(array), -1).tolist()
    return rows


def _near_sequences(
    samples: list[list[Any]], test: list[list[Any]], share: float
) -> list[tuple[int, int]]:
    triples = [_triples(words) for words in test]
    holders: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, each in enumerate(triples):
        for triple in each:
            holders[triple].append(place)
    pairs = []
    for row, words in enumerate(samples):
        mine = _triples(words)
        common = Counter(place for triple in mine for place in holders.get(triple, ()))
        for place, count in common.most_common():
            if count >= share * (len(mine) + len(triples[place]) - count):
                pairs.append((row, place))
                break
    return pairs


def _triples(words: list[Any]) -> set[tuple[Any, ...]]:
    """Return each three words in a row, but for those of a padding, which are all one."""
    if len(words) < 3:
        return {tuple(words)}
    found = set(zip(words, words[1:], words[2:], strict=False))
    return {triple for triple in found if len(set(triple)) > 1} or found


class Seal:
    """Is the record of a test set that was put aside: its hash, and who evaluated on it.

    Args:
        path: a JSON file. Where there is none, the samples are sealed now.
        samples: the test set: an array or tensor [samples, ...], or a list of texts.
        targets: those of the samples, which are then sealed with them.

    Raises:
        SealedTestSetError: the file is the seal of other samples, is damaged, or is to be made and
            cannot be written.
    """

    def __init__(self, path: str | Path, samples: Any, targets: Any = None) -> None:
        self.path = Path(path)
        self._samples = samples
        found = hash_samples(samples, targets)
        if not self.path.exists():
            with _locked(self.path):
                if not self.path.exists():  # no other process was faster
                    self._record: dict[str, Any] = {
                        "format": FORMAT,
                        "sha256": found,
                        "samples": len(samples),
                        "sealed": _now(),
                        "evaluations": [],
                    }
                    self._write()
                    return
        self._record = self._read()  # needs no lock: a seal is put in place whole
        sealed = self.sha256
        if sealed != found:
            raise SealedTestSetError(
                f"{self.path} seals {self._record.get('samples')} samples with the hash "
                f"{sealed[:12]}, and these {len(samples)} have {found[:12]}. Evaluate on the "
                "samples that were sealed, or seal these in a file of their own."
            )

    @property
    def sha256(self) -> str:
        """The hash of the samples (see `hash_samples`)."""
        return str(self._record["sha256"])

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Each evaluation so far: `time`, `model` and `metrics`."""
        return list(self._record["evaluations"])

    def check(self, samples: Any, name: str) -> None:
        """Refuse samples that were trained on and are in the test set.

        Args:
            samples: what was or will be trained on, as the test set is given.
            name: what they are called, such as "The training set".

        Raises:
            SealedTestSetError: some are; the message counts exact and near duplicates.
        """
        found = find_duplicates(samples, self._samples)
        if found.rows:
            raise SealedTestSetError(
                f"{name} ({len(samples)} samples) holds samples of the sealed test set {self.path}:"
                f" {found}. A test on them says nothing about new data. Take rows "
                f"{_listed(found.rows)} out of it."
            )

    def count(self, model: str, metrics: Mapping[str, Any]) -> str:
        """Record an evaluation, and return a line that tells how many there were.

        Raises:
            SealedTestSetError: it cannot be recorded.
        """
        evaluation = {"time": _now(), "model": model, "metrics": {**metrics}}
        with _locked(self.path):
            if self.path.exists():  # others may have counted meanwhile
                self._record = self._read()
            self._record["evaluations"].append(evaluation)
            self._write()
        number, first = len(self.evaluations), self.evaluations[0]
        if number == 1:
            return f"Sealed test set {self.sha256[:12]}: evaluation 1."
        return (
            f"Sealed test set {self.sha256[:12]}: evaluation {number} (the first was of "
            f"{first['model']}, {first['time']}). Choosing between models by it makes its numbers "
            "too good."
        )

    def _read(self) -> dict[str, Any]:
        try:
            record = dict(json.loads(self.path.read_text(encoding="utf-8")))
            record |= {
                "format": int(record["format"]),
                "sha256": str(record["sha256"]),
                "evaluations": [{**each} for each in record["evaluations"]],
            }
        except (ValueError, KeyError, TypeError) as error:
            raise SealedTestSetError(f"{self.path} is no seal, or is damaged: {error!r}.") from None
        if record["format"] != FORMAT:
            raise SealedTestSetError(
                f"{self.path} is a seal of format {record['format']}, whose hash cannot be compared"
                f" with that of format {FORMAT}, which this version of loopwright makes. Keep it "
                f"under another name, as the record of {len(record['evaluations'])} evaluations, "
                "and seal the samples anew."
            )
        return record

    def _write(self) -> None:
        write_text_aside(self.path, json.dumps(self._record, indent=2) + "\n")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a seal to write it; the system releases it when the process ends.

    Raises:
        SealedTestSetError: the seal cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":
            _warn_of_no_lock(path, "on Windows")
            yield
            return
        file = _open(lock)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                _warn_of_no_lock(path, f"on its file system ({error.strerror})")
            yield
        finally:
            os.close(file)
    except OSError as error:
        raise SealedTestSetError(
            f"{path} cannot be written ({error}), so this is not recorded. Let this user write in "
            f"the folder and read {lock.name}."
        ) from error


def _open(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        if not lock.exists():
            raise
        # That of another user can be locked all the same.
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC)


def _warn_of_no_lock(path: Path, where: str) -> None:
    warnings.warn(
        f"{path} cannot be locked {where}: of evaluations that end at once, one may not be "
        "counted. Run one after the other.",
        stacklevel=5,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _listed(rows: Sequence[int], most: int = 10) -> str:
    shown = ", ".join(map(str, rows[:most]))
    return f"{shown}, ... ({len(rows)} in all)" if len(rows) > most else shown

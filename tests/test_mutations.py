"""Mutated configurations: each is refused with the place, the value and the nearest name."""

import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
yaml = pytest.importorskip("yaml")

from loopwright.cli import main  # noqa: E402
from loopwright.problems import write_path  # noqa: E402
from loopwright.trainer import Trainer  # noqa: E402

KeyPath = tuple[str | int, ...]

EXAMPLES = Path(__file__).parents[1] / "examples"
ALL_PARTS = """
dataset:
  dataset: digits
  samples: {train: 1000, validation: 300, test: 400}
  preprocessors: [{type: divide, factor: 16}]
  data_augmentors: [{type: flip, probability: 0.5}, {type: invert, probability: 0.1}]
  shuffle: true
  one_hot: false
  seed: 3
model:
  model: {type: mlp, hidden: [16], dropout: 0.1}
  training:
    epochs: 2
    batch_size: 64
    max_steps: 20
    optimizer: {type: sgd, lr: 0.1, momentum: 0.9, nesterov: true}
    loss: {type: cross_entropy, label_smoothing: 0.1}
    metrics: [accuracy]
    gradient_accumulation_steps: 2
    gradient_clip_norm: 1.0
tracking: {log_params: true, log_metrics: true, trackers: [{type: history}]}
run:
  threads: 1
  precision: fp32
  step_mode: eager
  checkpoint: {every_steps: 10, every_minutes: 5.0, keep_latest: 2, watch: accuracy}
  callbacks: [{type: early_stopping, watch_metric: accuracy, early_stopping_patience: 2}]
"""
CONFIGURATIONS = {
    **{
        name: (EXAMPLES / name).read_text()
        for name in (
            "addition.yaml",
            "digits.yaml",
            "reversal.yaml",
            "tinyshakespeare.yaml",
            "vae.yaml",
        )
    },
    "all_parts.yaml": ALL_PARTS,
}
NUM_MUTATIONS = 200
UNBOUNDED = {"factor"}
"""Arguments that may be any number."""


@dataclass(frozen=True)
class Mutation:
    """A configuration with one mistake, and what has to be told of it."""

    kind: str
    values: dict[str, Any]
    path: KeyPath
    """Where the mistake stands, or the part that refuses it."""
    meant: str | None = None
    """The name that was meant, where one was misspelt."""


def places(values: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Give every value below the top with its path."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        yield (*path, key), value
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def at(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[key]
    return values


def misspelt(word: str, draws: random.Random) -> str:
    """Return a word with two letters swapped, one left out or one doubled."""
    where = draws.randrange(len(word) - 1)
    first, second, rest = word[where], word[where + 1], word[where + 2 :]
    middle = draws.choice([second + first, second, first + first + second])
    wrong = word[:where] + middle + rest
    return wrong if wrong != word else misspelt(word, draws)


def wrong_name(values: dict[str, Any], draws: random.Random) -> Mutation:
    """Misspell a key."""
    keys = [path for path, _ in places(values) if isinstance(path[-1], str)]
    *above, key = draws.choice(keys)
    holder = at(values, tuple(above))
    wrong = misspelt(key, draws)
    holder[wrong] = holder.pop(key)
    if key == "type":  # the part is not known, so neither are its keys
        return Mutation("name", values, (*above, "type"))
    return Mutation("name", values, (*above, wrong), meant=key)


def wrong_part(values: dict[str, Any], draws: random.Random) -> Mutation:
    """Misspell the name of a part."""
    named = [path for path, value in places(values) if path[-1] == "type" and ":" not in value]
    path = draws.choice(named)
    holder, name = at(values, path[:-1]), at(values, path)
    holder["type"] = misspelt(name, draws)
    return Mutation("part", values, path, meant=name)


def wrong_type(values: dict[str, Any], draws: random.Random) -> Mutation:
    """Put a value of another kind in the place of one."""
    path, value = draws.choice([each for each in places(values) if not isinstance(each[1], str)])
    others: dict[type, list[Any]] = {
        bool: ["maybe", 3, [True]],
        int: ["many", [3], {"count": 3}],
        float: ["much", {"rate": 0.5}],  # a list of rates is valid, one for each group
        list: [3, "many", {"first": 1}],
        dict: [3, [1, 2], True],
    }
    at(values, path[:-1])[path[-1]] = draws.choice(others[type(value)])
    return Mutation("type", values, path)


def wrong_range(values: dict[str, Any], draws: random.Random) -> Mutation:
    """Make a number negative."""
    numbers = [
        (path, value)
        for path, value in places(values)
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and path[-1] not in UNBOUNDED
    ]
    path, value = draws.choice(numbers)
    at(values, path[:-1])[path[-1]] = -value - 1
    return Mutation("range", values, path)


def wrong_nesting(values: dict[str, Any], draws: random.Random) -> Mutation:
    """Move a key out of the mapping that it belongs to."""
    deep = [p for p, _ in places(values) if len(p) > 2 and all(isinstance(k, str) for k in p[-2:])]
    *above, inner, key = draws.choice(deep)
    holder = at(values, tuple(above))
    holder[key] = holder[inner].pop(key)
    return Mutation("nesting", values, (*above, key))


KINDS: tuple[Callable[[dict[str, Any], random.Random], Mutation], ...] = (
    wrong_name,
    wrong_part,
    wrong_type,
    wrong_range,
    wrong_nesting,
)


def is_told(mutation: Mutation, line: str) -> bool:
    """Whether a line tells the mistake: its place, or that of a part that names what it refuses."""
    match = re.match(r"  line \d+: ([^:]+(?::\w+)?): (.*)", line)
    if match is None:
        return False
    path = write_path(mutation.path)
    if match[1] == path:
        return True
    name = [key for key in mutation.path if isinstance(key, str)][-1]
    refused = re.search(rf"\b{name}\b", match[2])
    if mutation.kind == "range":  # torch's own words do not always have the name
        refused = refused or re.search(rf": {at(mutation.values, mutation.path)}$", match[2])
    return path.startswith(match[1]) and refused is not None


def suggested(line: str) -> str:
    match = re.search(r'Did you mean "(.*)"\?$', line)
    assert match, line
    return match[1]


def likeness(first: str, second: str) -> float:
    return SequenceMatcher(None, second, first).ratio()


def refuse_to_train(*arguments: Any, **options: Any) -> None:
    raise AssertionError("the configuration was taken for a whole one")


@pytest.mark.parametrize("seed", range(NUM_MUTATIONS))
def test_a_mutated_configuration_is_refused_with_its_place(
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "train", refuse_to_train)
    draws = random.Random(seed)
    name = list(CONFIGURATIONS)[seed // len(KINDS) % len(CONFIGURATIONS)]
    mutation = KINDS[seed % len(KINDS)](yaml.safe_load(CONFIGURATIONS[name]), draws)
    Path("tinyshakespeare.txt").write_text("To be, or not to be. " * 500)
    Path(name).write_text(yaml.safe_dump(mutation.values, sort_keys=False))
    monkeypatch.setattr(sys, "argv", ["loopwright", "train", name])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 2, err
    assert out == ""
    assert "Traceback" not in err
    first, *lines = err.splitlines()
    assert re.fullmatch(rf"{name} holds (a mistake|\d+ mistakes):", first)
    told = [line for line in lines if is_told(mutation, line)]
    assert told, (mutation.path, err)
    if mutation.kind in ("type", "range"):
        value = at(mutation.values, mutation.path)
        assert any(repr(value) in line or f"{value}" in line for line in told), (value, err)
    if mutation.meant is not None:
        wrong = at(mutation.values, mutation.path) if mutation.kind == "part" else mutation.path[-1]
        nearest = likeness(suggested(told[0]), wrong)
        assert nearest >= likeness(mutation.meant, wrong), (mutation.meant, err)
    assert not Path("runs").exists()

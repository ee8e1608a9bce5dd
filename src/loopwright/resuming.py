"""Going on with a declared run: finding its folder, and telling what was declared otherwise."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.checkpoint_store import CheckpointStore
from loopwright.config_file import ConfigSource, parse_config
from loopwright.errors import ConfigurationError
from loopwright.experiment_config import ExperimentSpec, find_value, schema_problems
from loopwright.plain_values import mask_secrets, to_plain
from loopwright.problems import MISSING, write_path
from loopwright.run_record import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    RunRecord,
    is_run_folder,
    read_run,
)

KeyPath = tuple[str, ...]

_WITHOUT_EFFECT: tuple[KeyPath, ...] = (
    ("run", "folder"),
    ("run", "name"),
    ("run", "checkpoint"),
    ("tracking",),
)
"""What may differ when a run goes on, because no weight and no figure depends on it."""

_MAX_VALUE_LENGTH = 60


@dataclass(frozen=True)
class EarlierRun:
    """Is a run that was begun before, as its folder tells."""

    record: RunRecord
    has_checkpoint: bool

    @property
    def path(self) -> Path:
        """Where its folder is."""
        return self.record.path

    @property
    def is_trained(self) -> bool:
        """Whether training came to its end."""
        return self.record.status.get("status") == "finished"

    @property
    def is_complete(self) -> bool:
        """Whether it was tested too, so that nothing is left to do."""
        metrics = self.record.results.get("metrics", {})
        return self.is_trained and any(name.startswith("test_") for name in metrics)

    @property
    def can_go_on(self) -> bool:
        """Whether something of it is left to do, and something to go on from."""
        return self.has_checkpoint and not self.is_complete

    def config(self) -> dict[str, Any]:
        """Return the values in its config.yaml, with defaults where it names none.

        Raises:
            ConfigurationError: There are none, or they cannot be read.
        """
        where = str(self.path / CONFIG_FILE)
        source = parse_config(self.record.config, name=where)
        if not source.values:
            raise ConfigurationError(f"{where} is missing or empty, so the run cannot be compared.")
        spec, _ = schema_problems(ConfigSource(source.values, where))
        return spec.model_dump(mode="json", exclude_none=True) if spec else source.values


def find_run(name: str, folder: str | None, parent: Path) -> EarlierRun | None:
    """Return the run to go on with, or one that is complete, or None.

    Args:
        name: The name of the run.
        folder: The run's own folder, which alone is looked at; None to look below `parent`.
        parent: Of the folders `name`-TIMESTAMP in here, the newest that can go on is taken, else
            the newest that is complete.

    Raises:
        RunFolderError: A folder holds a run whose files are damaged.
    """
    if folder is not None:
        return _look_into(Path(folder))
    runs = [run for path in _folders_of(name, parent) if (run := _look_into(path))]
    for run in runs:
        if run.can_go_on:
            return run
    return next((run for run in runs if run.is_complete), None)


def _folders_of(name: str, parent: Path) -> list[Path]:
    """Return the folders of this name, newest first."""
    pattern = re.compile(rf"{re.escape(name)}-(\d{{8}}-\d{{6}})(?:-(\d+))?")
    dated = []
    for path in parent.iterdir() if parent.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            dated.append(((match[1], int(match[2] or 1)), path))
    return [path for _, path in sorted(dated, reverse=True)]


def _look_into(path: Path) -> EarlierRun | None:
    if not is_run_folder(path):
        return None
    store = CheckpointStore(path / CHECKPOINTS_FOLDER, CheckpointPolicy(), print)
    return EarlierRun(read_run(path), bool(store.folders()))


@dataclass(frozen=True)
class Difference:
    """Is a value that a run began with, and that is another one now."""

    path: KeyPath
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{write_path(self.path)}: {_shorten(self.then)} -> {_shorten(self.now)}"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between two configurations and can change what a run ends with.

    Secrets, which are not stored, are not compared.
    """
    before, after = (dict(_flatten(mask_secrets(to_plain(values)))) for values in (then, now))
    return [
        Difference(path, before.get(path, MISSING), after.get(path, MISSING))
        for path in dict.fromkeys([*before, *after])
        if before.get(path, MISSING) != after.get(path, MISSING) and not _is_without_effect(path)
    ]


def _flatten(values: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, (*path, key))
        else:
            yield (*path, key), value


def _is_without_effect(path: KeyPath) -> bool:
    return any(path[: len(known)] == known for known in _WITHOUT_EFFECT)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."


def refuse_changes(run: EarlierRun, changes: list[Difference], *, allow_changes: bool) -> None:
    """Raise if a run would go on with another configuration; allowed changes are announced.

    Raises:
        ConfigurationError: Something differs and is not allowed to, or never can.
    """
    if not changes:
        return
    listed = "\n".join(f"  {change}" for change in changes)
    if not allow_changes:
        raise ConfigurationError(
            f"{run.path} holds a run with another configuration:\n{listed}\n"
            "Go on with the same configuration, start a new run without --resume, or accept the "
            "difference with --allow-changes."
        )
    if any(change.path == ("run", "seed") for change in changes):
        raise ConfigurationError(
            f"{run.path} holds a run with another seed:\n{listed}\n"
            "The seed decides which data are left, so it cannot change within a run. Leave it out "
            "to go on with the run's own."
        )
    print(
        f"Going on with changes, so the run ends with other weights than either configuration "
        f"alone would give:\n{listed}"
    )


def take_filled_in(
    spec: ExperimentSpec, then: Mapping[str, Any], declared: Mapping[str, Any]
) -> ExperimentSpec:
    """Return the spec with seed, mode and id of an earlier run, where they are not declared now."""
    for part, name in (("run", "seed"), ("run", "step_mode"), ("tracking", "run_id")):
        filled = find_value(then, (part, name))
        if filled is not None and find_value(declared, (part, name)) is None:
            changed = getattr(spec, part).model_copy(update={name: filled})
            spec = spec.model_copy(update={part: changed})
    return spec

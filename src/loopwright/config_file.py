"""Reading a configuration file: YAML into plain values, with the line of each, and overrides."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.errors import ConfigurationError
from loopwright.extras import require
from loopwright.plain_values import MASK, looks_secret, mask_secrets
from loopwright.problems import Problem, ProblemsError

_MAX_BYTES = 1_000_000
_MAX_VALUES = 100_000
_MAX_DEPTH = 50

KeyPath = tuple[str | int, ...]


@dataclass
class ConfigSource:
    """Holds the values of a configuration and where each of them was written."""

    values: dict[str, Any]
    name: str = "the configuration"
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str | None:
        """Return where a value, or the nearest one that encloses it, was written."""
        for length in range(len(path), 0, -1):
            if place := self.places.get(path[:length]):
                return place
        return None


def read_config_file(path: str | Path) -> ConfigSource:
    """Read a YAML file.

    Raises:
        ConfigurationError: the file cannot be read, is no YAML, or its top is no mapping.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigurationError(
                f"{path} is larger than {_MAX_BYTES} bytes: no configuration looks like that."
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"There is no file {path}. Check the path.") from None
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8: {error}.") from error
    return parse_config(text, name=path.name)


def parse_config(text: str, *, name: str = "the configuration") -> ConfigSource:
    """Read YAML text.

    Raises:
        ConfigurationError: it is no YAML, its top is no mapping, or it holds what JSON cannot.
    """
    yaml = require("yaml", "cli")
    source = ConfigSource({}, name)
    try:
        loader = _make_loader(yaml)(text)
        node = loader.get_single_node()
        _check_nodes(node, source)
        values = loader.construct_document(node) if node is not None else {}
    except ConfigurationError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"{name} is no valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{name}: expected a mapping with the keys dataset and model at the top, "
            f"got {type(values).__name__}."
        )
    source.values = values
    return source


def apply_overrides(source: ConfigSource, overrides: Iterable[str]) -> None:
    """Set values in place, each written `model.training.epochs=3` with its value in YAML.

    Raises:
        ProblemsError: an override has no `=`, no valid YAML, or leads through a value.
    """
    problems = []
    for override in overrides:
        try:
            _apply(source, override)
        except ValueError as error:
            problems.append(
                Problem(
                    path=(mask_override(override),), message=str(error).rstrip("."), source="--set"
                )
            )
    if problems:
        raise ProblemsError(problems, name="--set")


def mask_override(override: str) -> str:
    """Return an override as it may be shown: one that holds a secret without its value."""
    key, equals, text = override.partition("=")
    try:
        value = _parse_value(text)
    except ValueError:
        value = text
    is_secret = looks_secret(key) or repr(mask_secrets(value)) != repr(value)
    return f"{key}{equals}{MASK}" if is_secret else override


def _apply(source: ConfigSource, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ValueError("expected KEY.KEY=VALUE")
    set_value(source, _parse_path(key.strip()), _parse_value(text), place="--set")


def _parse_value(text: str) -> Any:
    value = parse_config(f"value: {text}" if text.strip() else "value:", name="value").values
    if set(value) != {"value"}:
        raise ValueError("expected one value")
    return value["value"]


def set_value(source: ConfigSource, path: KeyPath, value: Any, *, place: str) -> None:
    """Put a value at a path, making the mappings on the way.

    Raises:
        ValueError: the path leads through a value that is neither mapping nor list.
    """
    holder: Any = source.values
    for depth, part in enumerate(path[:-1]):
        holder = _step_into(holder, part, path[: depth + 1])
    last = path[-1]
    if isinstance(holder, list) and isinstance(last, int) and -1 < last < len(holder):
        holder[last] = value
    elif isinstance(holder, dict):
        holder[str(last)] = value
    else:
        raise ValueError(f"no place {last!r} in a {type(holder).__name__}")
    for known in [known for known in source.places if known[: len(path)] == path]:
        del source.places[known]
    source.places[path] = place


def _step_into(holder: Any, part: str | int, path: KeyPath) -> Any:
    if isinstance(holder, dict):
        if holder.get(str(part)) is None:
            holder[str(part)] = {}
        return holder[str(part)]
    if isinstance(holder, list) and isinstance(part, int) and -1 < part < len(holder):
        return holder[part]
    raise ValueError(f"no place {path[-1]!r} in a {type(holder).__name__}")


def _parse_path(text: str) -> KeyPath:
    parts: list[str | int] = []
    for part in text.split("."):
        match = re.fullmatch(r"([^\[\]]+)((?:\[\d+\])*)", part)
        if match is None:
            raise ValueError(f"{part!r} is no key")
        parts.append(match[1])
        parts.extend(int(index) for index in re.findall(r"\d+", match[2]))
    return tuple(parts)


def _make_loader(yaml: Any) -> type[Any]:
    """Return a safe loader that reads 1e-3 as a number and keeps dates as text."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads what YAML 1.2 calls its core values."""

    Loader.yaml_implicit_resolvers = {
        letter: [(tag, regexp) for tag, regexp in resolvers if "timestamp" not in tag]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _check_nodes(top: Any, source: ConfigSource) -> None:
    """Note the line of every value; refuses doubled keys and documents that unfold without end."""
    problems: list[Problem] = []
    count = 0
    todo: list[tuple[Any, KeyPath]] = [(top, ())] if top is not None else []
    while todo:
        node, path = todo.pop()
        count += 1
        if count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise ConfigurationError(f"{source.name} unfolds to too many values.")
        source.places.setdefault(path, f"line {node.start_mark.line + 1}")
        if node.id == "mapping":
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                place = f"line {key.start_mark.line + 1}"
                if name in seen:
                    problems.append(
                        Problem(path=(*path, name), message="this key stands twice", source=place)
                    )
                seen.add(name)
                source.places[(*path, name)] = place
                todo.append((value, (*path, name)))
        elif node.id == "sequence":
            todo.extend((item, (*path, index)) for index, item in enumerate(node.value))
    if problems:
        raise ProblemsError(problems, name=source.name)


def find_unplain(value: Any, path: KeyPath = ()) -> list[Problem]:
    """Return a problem for each key that is no text and each value that JSON does not know."""
    if isinstance(value, dict):
        problems = []
        for key, item in value.items():
            if isinstance(key, str):
                problems += find_unplain(item, (*path, key))
            else:
                message = "expected text as the key; put it in quotes"
                problems.append(Problem(path=(*path, str(key)), message=message, value=key))
        return problems
    if isinstance(value, list | tuple):
        return [p for i, item in enumerate(value) for p in find_unplain(item, (*path, i))]
    if isinstance(value, float) and not math.isfinite(value):
        return [Problem(path=path, message="expected a finite number", value=value)]
    if value is None or isinstance(value, str | int | float | bool):
        return []
    return [Problem(path=path, message="expected text, a number, a list or a mapping", value=value)]

"""Mistakes in a declared run: collected, and told all at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from loopwright.errors import ConfigurationError
from loopwright.plain_values import MASK, looks_secret, mask_secrets


class _Missing:
    """Stands for a value that is not there, where None is a value."""

    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()

_MAX_VALUE_LENGTH = 60


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Is one mistake: where it stands, what stands there, and what was expected."""

    path: tuple[str | int, ...]
    """Keys and indices that lead to the value."""
    message: str
    """What is wrong or what was expected, without a full stop."""
    value: Any = MISSING
    suggestion: str | None = None
    """The name that was probably meant."""
    source: str | None = None
    """The file and line, or the option, that the value comes from."""

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        is_secret = any(looks_secret(str(part)) for part in self.path)
        value = MASK if is_secret else _shorten(mask_secrets(self.value))
        got = "" if self.value is MISSING else f", got {value}"
        hint = f'. Did you mean "{self.suggestion}"?' if self.suggestion else ""
        return f"{where}{write_path(self.path)}: {self.message}{got}{hint}"


class ProblemsError(ConfigurationError):
    """Tells every mistake that was found in a declared run.

    Args:
        problems: at least one.
        name: what the run was declared in, such as the name of a file.
    """

    def __init__(self, problems: Iterable[Problem], *, name: str = "the configuration") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{name} holds {'a mistake' if count == 1 else f'{count} mistakes'}:"]
        super().__init__("\n".join([*lines, *(f"  {problem}" for problem in self.problems)]))


def write_path(path: tuple[str | int, ...]) -> str:
    """Return a path as people write it, such as `dataset.preprocessors[0].type`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "(top)"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."

"""How long to wait before the next attempt, and which errors another attempt cannot mend."""

import random
from dataclasses import dataclass

from loopwright.errors import MissingExtraError

# Classes of packages that are there only with their storage.
_FINAL_NAMES = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "DefaultCredentialsError",
        "ParamValidationError",
    }
)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Says how long to wait between attempts: twice as long each time, with jitter."""

    first_seconds: float = 1.0
    """The longest wait after the first failure; the shortest is half of it."""

    most_seconds: float = 60.0
    """The longest wait after any failure."""

    def __post_init__(self) -> None:
        if not 0 < self.first_seconds <= self.most_seconds:
            raise ValueError(
                f"first_seconds is {self.first_seconds} and most_seconds {self.most_seconds}; "
                "expected 0 < first_seconds <= most_seconds."
            )

    def seconds(self, num_failures: int, draws: random.Random) -> float:
        """Return the wait after so many failures in a row, at least one."""
        longest = min(self.most_seconds, self.first_seconds * 2.0 ** min(num_failures - 1, 60))
        return longest * draws.uniform(0.5, 1.0)


def is_final(error: BaseException) -> bool:
    """Tell whether the same request would fail again: not found, not allowed, not understood."""
    kinds = (FileNotFoundError, PermissionError, ValueError, TypeError, MissingExtraError)
    return isinstance(error, kinds) or type(error).__name__ in _FINAL_NAMES

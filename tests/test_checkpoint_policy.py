"""When checkpoints are asked for, and what a policy refuses."""

from typing import Any

import pytest

from loopwright.checkpoint_policy import CheckpointPolicy


@pytest.mark.parametrize("name", ["every_steps", "every_minutes", "every_epochs"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_intervals_are_positive(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a positive number"):
        CheckpointPolicy(**{name: value})


def test_something_has_to_stay() -> None:
    with pytest.raises(ValueError, match="keep_latest is 0; expected 1 or more"):
        CheckpointPolicy(keep_latest=0)
    with pytest.raises(ValueError, match="keep_best is -1; expected 0 or more"):
        CheckpointPolicy(keep_best=-1)


def test_a_policy_is_a_value() -> None:
    assert CheckpointPolicy(every_steps=3) == CheckpointPolicy(every_steps=3)
    with pytest.raises(AttributeError):
        CheckpointPolicy().keep_latest = 3  # type: ignore[misc]

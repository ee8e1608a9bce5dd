"""What stands in a step that is made one program for values that a program would not see change."""

from typing import Any

from loopwright.execution.obstacles import NotCapturableError

_OPERATIONS = (
    *("bool", "int", "float", "index", "hash", "str", "format", "neg", "abs", "divmod"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
    *(
        side + name
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and")
        for side in ("", "r")
    ),
)


class Unreadable:
    """Refuses to be used in any way.

    Args:
        name: What it stands for.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, *_: Any) -> Any:
        raise NotCapturableError(
            f"training_step reads {self._name}, which changes from step to step and would be a "
            "constant of a program"
        )


for _each in _OPERATIONS:
    setattr(Unreadable, f"__{_each}__", Unreadable._refuse)


class UnreadableTrainer:
    """Refuses to tell anything of a trainer."""

    def __getattr__(self, name: str) -> Any:
        Unreadable(f"{name} of its trainer")._refuse()

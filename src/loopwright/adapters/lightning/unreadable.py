"""What stands in a step that is made one program for values that a program would not see change."""

from typing import Any, NoReturn

from loopwright.execution.obstacles import NotCapturableError

_OPERATIONS = (
    *("bool", "int", "float", "complex", "index", "hash", "str", "repr", "format"),
    *("neg", "pos", "abs", "invert", "round", "trunc", "floor", "ceil"),
    *("eq", "ne", "lt", "le", "gt", "ge", "getattribute"),
    *(
        side + name
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow")
        for side in ("", "r")
    ),
    *(side + name for name in ("and", "or", "xor", "lshift", "rshift") for side in ("", "r")),
)


def refuse(reason: str, refused: list[str]) -> NoReturn:
    """Refuse to go on, and keep why, as a step may catch the error.

    Raises:
        NotCapturableError: With this reason.
    """
    refused.append(reason)
    raise NotCapturableError(reason)


def _refuse_reading(name: str, refused: list[str]) -> NoReturn:
    refuse(
        f"training_step reads {name}, which changes from step to step and would be a constant of a "
        "program",
        refused,
    )


class Unreadable:
    """Refuses to be used in any way.

    Args:
        name: What it stands for.
        refused: Takes the reasons.
    """

    def __init__(self, name: str, refused: list[str]) -> None:
        self._told = name, refused

    def _refuse(self, *_: Any) -> NoReturn:
        _refuse_reading(*object.__getattribute__(self, "_told"))


for _each in _OPERATIONS:
    setattr(Unreadable, f"__{_each}__", Unreadable._refuse)


class UnreadableTrainer:
    """Refuses to tell anything of a trainer, and to change it.

    Args:
        refused: Takes the reasons.
    """

    def __init__(self, refused: list[str]) -> None:
        object.__setattr__(self, "_refused", refused)

    def __getattribute__(self, name: str) -> Any:
        _refuse_reading(f"{name} of its trainer", object.__getattribute__(self, "_refused"))

    def __setattr__(self, name: str, value: Any) -> None:
        reason = f"training_step sets {name} of its trainer, which a program does not do again"
        refuse(reason, object.__getattribute__(self, "_refused"))

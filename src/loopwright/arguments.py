"""Checking the arguments of a registered part against its signature, before it is called."""

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from loopwright.extras import require
from loopwright.problems import MISSING, Problem
from loopwright.registry import nearest_name

_EXPECTED = {
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "set_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "none_required": "expected null",
    "finite_number": "expected a finite number",
    "path_type": "expected a path",
    "string_pattern_mismatch": "expected letters, digits, '.', '_' and '-', no sign first",
}


def argument_problems(
    part: Callable[..., Any], arguments: Mapping[str, Any], *, supplied: Collection[str] = ()
) -> list[Problem]:
    """Return what is wrong with `arguments`, which are plain values, for a call of `part`.

    Args:
        part: a class or function; what it does not annotate is not checked.
        arguments: keyword arguments as they were declared.
        supplied: parameters that the caller fills in and that may be left out here.
    """
    parameters = _parameters(part)
    if parameters is None:
        return []
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {
        n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    problems = []
    for name, value in arguments.items():
        if name not in named and not open_ended:
            known = [n for n in named if n not in supplied] or ["none"]
            problems.append(
                Problem(
                    path=(name,),
                    message=f"unknown argument (known: {', '.join(known)})",
                    value=value,
                    suggestion=nearest_name(name, known),
                )
            )
    for name, parameter in named.items():
        if name in arguments:
            problems += _value_problems(name, parameter.annotation, arguments[name])
        elif parameter.default is parameter.empty and name not in supplied:
            problems.append(Problem(path=(name,), message="expected a value; none is given"))
    return problems


def accepts(part: Callable[..., Any], name: str) -> bool:
    """Tell whether a part has a parameter of this name."""
    return name in (_parameters(part) or {})


def describe_error(error: Mapping[str, Any], known: Collection[str] = ()) -> Problem:
    """Return a mistake that pydantic found in our words."""
    kind = str(error["type"])
    path = tuple(error["loc"])
    value = error.get("input", MISSING)
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        names = list(known)
        return Problem(
            path=path,
            message=f"unknown key (known: {', '.join(names)})",
            value=value,
            suggestion=nearest_name(str(path[-1]), names),
        )
    if kind == "missing":
        return Problem(path=path, message="expected a value; none is given")
    if kind == "literal_error":
        return Problem(
            path=path,
            message=f"expected {context['expected']}",
            value=value,
            suggestion=nearest_name(str(value), [e.strip("'") for e in _choices(context)]),
        )
    if kind in _EXPECTED:
        return Problem(path=path, message=_EXPECTED[kind], value=value)
    message = str(error["msg"]).removeprefix("Value error, ")
    for verb in ("Input should be ", "Value should be "):
        message = message.replace(verb, "expected a value ")
    return Problem(path=path, message=message, value=value)


def _choices(context: Mapping[str, Any]) -> list[str]:
    return str(context["expected"]).replace(" or ", ", ").split(", ")


def _parameters(part: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Return the parameters with resolved annotations; None where there is no signature."""
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):
        return None
    target = part.__init__ if isinstance(part, type) else part  # type: ignore[misc]
    try:
        hints = get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        hints = {}
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in signature.parameters.items()
    }


def _value_problems(name: str, annotation: Any, value: Any) -> list[Problem]:
    """Check one value; of several complaints about a union, the first one speaks."""
    pydantic = require("pydantic", "cli")
    try:
        adapter = pydantic.TypeAdapter(
            annotation, config=pydantic.ConfigDict(arbitrary_types_allowed=True)
        )
    except (pydantic.errors.PydanticUserError, TypeError):
        try:
            adapter = pydantic.TypeAdapter(annotation)
        except (pydantic.errors.PydanticUserError, TypeError):
            return []  # a type that cannot be checked
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        told = [e for e in error.errors(include_url=False) if e["type"] != "needs_python_object"]
        if not told:
            return []
        first = describe_error(told[0])
        inner = [part for part in first.path if isinstance(part, int)]
        expected = " or ".join(dict.fromkeys(_bare(describe_error(e).message) for e in told))
        return [
            Problem(path=(name, *inner), message=f"expected {expected}", value=told[0]["input"])
        ]
    return []


def _bare(message: str) -> str:
    return message.removeprefix("expected ")

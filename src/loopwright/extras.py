"""Importing optional packages, with the install command where one is missing."""

import random
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from loopwright.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module or says how to install it.

    Some packages draw from `random` when they are imported, and a run imports them in its middle;
    its state is left as it was, so that going on from a checkpoint is exact.

    Args:
        module: the dotted name to import, such as `rich.table`.
        extra: the extra of loopwright that brings it, such as `cli`.

    Raises:
        MissingExtraError: the module is not installed.
    """
    state = random.getstate()
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # The package is there; what it needs in turn is not, and its own error says so.
        raise _missing(package, extra) from None
    finally:
        random.setstate(state)


def require_installed(packages: Iterable[str], extra: str) -> None:
    """Look for optional packages without importing them, which takes no time.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise _missing(package, extra)


def _missing(package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"{package!r} is needed here and is not installed. "
        f'Install it with: pip install "loopwright[{extra}]"',
        name=package,
    )

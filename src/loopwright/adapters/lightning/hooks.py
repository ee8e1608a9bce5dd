"""Calls the hooks of a module and its callbacks; which of them exist is worked out once."""

from collections.abc import Callable
from typing import Any

from loopwright.adapters.lightning.upstream import Callback, is_overridden

_OWN = ("lightning.", "pytorch_lightning.", "loopwright.")
_Found = tuple[tuple[Callable[..., Any], ...], Callable[..., Any] | None]


class Hooks:
    """Calls hooks as Lightning does: those of callbacks first, each under its name for `self.log`.

    Args:
        owner: The trainer that callbacks get.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._module = owner.lightning_module
        self._found: dict[str, _Found] = {}

    def forget(self) -> None:
        """Look anew for what is overridden, as at the start of an epoch."""
        self._found.clear()

    def __call__(self, name: str, *args: Any) -> Any:
        """Call a hook, and return what the module's returned."""
        callbacks, method = self._found.get(name) or self._find(name)
        if not callbacks and method is None:
            return None
        fields = vars(self._module)
        before, fields["_current_fx_name"] = fields["_current_fx_name"], name
        for call in callbacks:
            call(self._owner, self._module, *args)
        result = None if method is None else method(*args)
        fields["_current_fx_name"] = before
        return result

    def overrides(self, name: str) -> bool:
        """Whether the module has a method of its own in place of Lightning's."""
        return (self._found.get(name) or self._find(name))[1] is not None

    def is_used(self, name: str) -> bool:
        """Whether a callback or the module has a hook."""
        callbacks, method = self._found.get(name) or self._find(name)
        return bool(callbacks) or method is not None

    def is_used_by_others(self, name: str) -> bool:
        """Whether a callback that is not of Lightning's own, or the module, has a hook."""
        callbacks, method = self._found.get(name) or self._find(name)
        return method is not None or any(not each.__module__.startswith(_OWN) for each in callbacks)

    def of_module(self, name: str, *args: Any) -> Any:
        """Call a method of the module, whether it overrides Lightning's or not."""
        return self.under(name, getattr(self._module, name), *args)

    def under(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function under the name of a hook."""
        fields = vars(self._module)
        before, fields["_current_fx_name"] = fields["_current_fx_name"], name
        result = function(*args, **options)
        fields["_current_fx_name"] = before
        return result

    def _find(self, name: str) -> _Found:
        default = getattr(Callback, name, None)
        methods = [getattr(each, name, None) for each in self._owner.callbacks]
        callbacks = tuple(
            method
            for method in methods
            if callable(method) and getattr(method, "__func__", method) is not default
        )
        is_own = has_own(self._module, name)
        self._found[name] = callbacks, getattr(self._module, name) if is_own else None
        return self._found[name]


def has_own(owner: Any, name: str) -> bool:
    """Whether a module or a data module has a method of its own in place of Lightning's."""
    return name in vars(owner) or is_overridden(name, owner)

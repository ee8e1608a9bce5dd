"""Names for parts of a declared run: data sets, models, optimizers and the rest."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module, metadata
from typing import Generic, TypeVar

from loopwright.errors import ConfigurationError
from loopwright.extras import require

Part = TypeVar("Part")


class UnknownNameError(ConfigurationError):
    """Tells that no part has this name, which names there are, and which one is nearest."""

    def __init__(self, message: str, *, nearest: str | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class Registry(Generic[Part]):
    """Maps names to parts of one kind.

    A name that holds a colon is a path to a part of the user's own: `package.module:Name` imports
    the module, which may register `Name`, and else takes its attribute `Name`.

    Args:
        kind: what the parts are, for messages, such as "model".
        group: the group of entry points by which installed packages add parts, each under the
            name of its entry point; none where it is left out.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._parts: dict[str, Part] = {}
        self._paths: dict[str, str] = {}
        self._extras: dict[str, str] = {}

    def register(self, name: str, *, extra: str | None = None) -> Callable[[Part], Part]:
        """Return a decorator that gives what it decorates a name.

        Args:
            name: the name.
            extra: the extra of loopwright that the part needs.

        Raises:
            ValueError: the name is taken, or holds a colon.
        """

        def decorate(part: Part) -> Part:
            self.add(name, part)
            if extra is not None:
                self._extras[name] = extra
            return part

        return decorate

    def add(self, name: str, part: Part) -> None:
        """Give a part a name.

        Raises:
            ValueError: the name is taken, or holds a colon.
        """
        if not name or ":" in name:
            raise ValueError(f"{name!r} cannot name a {self.kind}: a colon stands for a path.")
        if name in self._parts:
            raise ValueError(
                f"A {self.kind} is already registered as {name!r}: {self._parts[name]!r}. "
                "Choose another name."
            )
        self._parts[name] = part

    def add_path(self, name: str, path: str, *, extra: str) -> None:
        """Give a name to `package.module:Name`, which is imported when it is asked for.

        Args:
            name: the name.
            path: of the part.
            extra: the extra of loopwright that brings the package.
        """
        self._paths[name], self._extras[name] = path, extra

    def extra_of(self, name: str) -> str | None:
        """Return the extra of loopwright that a registered part needs."""
        extra: str | None = getattr(self._parts.get(name), "extra", None)
        return self._extras.get(name, extra)

    def get(self, name: str) -> Part:
        """Return the part with this name or at this path.

        Raises:
            UnknownNameError: there is none.
            MissingExtraError: it is in a package that is not installed.
        """
        if ":" in name:
            return self._import(name)
        if name in self._paths:
            module, _, attribute = self._paths[name].partition(":")
            part: Part = getattr(require(module, self._extras[name]), attribute)
            return part
        if name not in self._parts:
            plugin = self._plugins().get(name)
            if plugin is None:
                raise self._unknown(name)
            self._parts.setdefault(name, plugin.load())  # importing it may register it as well
        return self._parts[name]

    def names(self) -> tuple[str, ...]:
        """Return all registered names, those of installed packages too, in alphabetical order."""
        return tuple(sorted({*self._parts, *self._paths, *self._plugins()}))

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _plugins(self) -> dict[str, metadata.EntryPoint]:
        if self.group is None:
            return {}
        return {plugin.name: plugin for plugin in metadata.entry_points(group=self.group)}

    def _import(self, path: str) -> Part:
        module_name, _, name = path.partition(":")
        try:
            module = import_module(module_name)
        except (ModuleNotFoundError, ValueError) as error:
            raise UnknownNameError(
                f"{path!r} names no {self.kind}: {error}. "
                "Install that package, or run from the folder that holds it."
            ) from error
        if name in self._parts:
            return self._parts[name]
        try:
            part: Part = getattr(module, name)
        except AttributeError:
            nearest = nearest_name(name, [n for n in vars(module) if not n.startswith("_")])
            raise UnknownNameError(
                f"{path!r} names no {self.kind}: module {module_name} holds no {name!r}.",
                nearest=f"{module_name}:{nearest}" if nearest else None,
            ) from None
        return part

    def _unknown(self, name: str) -> UnknownNameError:
        return UnknownNameError(
            f"There is no {self.kind} {name!r}. Registered: {', '.join(self.names())}; "
            "a part of your own is written package.module:Name.",
            nearest=nearest_name(name, self.names()),
        )


def nearest_name(name: str, names: "list[str] | tuple[str, ...]") -> str | None:
    """Return the name that was probably meant; None where nothing comes close."""
    lower = {candidate.lower(): candidate for candidate in names}
    swapped = [each for each in lower if sorted(each) == sorted(name.lower())]
    matches = swapped or get_close_matches(name.lower(), lower, n=1)
    return lower[matches[0]] if matches else None

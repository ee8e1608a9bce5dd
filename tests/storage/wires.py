"""A file system in memory that can be cut, and that notes what it was asked."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem


class Wire(MemoryFileSystem):
    """Is memory behind a wire: `wire://`; what a test sets holds for all of its users."""

    protocol = "wire"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[list[tuple[str, str]]] = []
    """Every change of a file that was asked for: what, and its name."""
    on_call: ClassVar[Callable[[str, str], None] | None] = None
    """Called with each; what it raises is what the server answers."""
    spoil: ClassVar[Callable[[str, bytes], bytes] | None] = None
    """What a file becomes on its way."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix("wire://"))
        return stripped

    @classmethod
    def clear(cls) -> None:
        """Begin anew."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.asked.clear()
        cls.on_call = cls.spoil = None

    def _ask(self, what: str, path: str) -> None:
        name = self._strip_protocol(path)
        if Wire.on_call is not None:
            Wire.on_call(what, name)
        if what in ("put", "rm"):
            Wire.asked.append((what, name))

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        with open(lpath, "rb") as file:
            self.pipe_file(rpath, file.read())

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> Any:
        self._ask("put", path)
        name = self._strip_protocol(path)
        if Wire.spoil is not None:
            value = Wire.spoil(name, value)
        return super().pipe_file(path, value)

    def info(self, path: str, **kwargs: Any) -> Any:
        self._ask("info", path)
        return super().info(path)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._ask("get", path)
        return super().cat_file(path, *args, **kwargs)

    def rm_file(self, path: str) -> None:
        self._ask("rm", path)
        try:
            super().rm_file(path)
        except KeyError:
            raise FileNotFoundError(path) from None


fsspec.register_implementation("wire", Wire, clobber=True)


@pytest.fixture
def wire() -> Iterator[type[Wire]]:
    """Return the class, empty and unbroken."""
    Wire.clear()
    yield Wire
    Wire.clear()

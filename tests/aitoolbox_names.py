"""Makes `aitoolbox` importable, with our names in its places, for that library's own tests.

It is a plugin of pytest: `-p aitoolbox_names`. A name that the migration page does not list is
there too, and fails when it is used.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

from test_migrating import AITOOLBOX

OURS = {old: new for old, new in AITOOLBOX if old.rpartition(".")[2] == new.rpartition(".")[2]}
MODULES = {old.rpartition(".")[0] for old in OURS}
PACKAGES = {m.rsplit(".", n)[0] for m in MODULES for n in range(1, m.count(".") + 1)}


class _IsMissing(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"loopwright has no {cls.__name__}")

    def __getattr__(cls, name: str) -> Any:
        raise NotImplementedError(f"loopwright has no {cls.__name__}.{name}")


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in MODULES | PACKAGES:
            return importlib.import_module(f"{self.__name__}.{name}")
        return _IsMissing(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] != "aitoolbox":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        ours = {old: new for old, new in OURS.items() if old.startswith(f"{module.__name__}.")}
        for old, new in ours.items():
            home, _, name = new.rpartition(".")
            if old.rpartition(".")[0] == module.__name__ or module.__name__ in PACKAGES:
                setattr(module, name, getattr(importlib.import_module(home), name))
        also = {name: importlib.import_module(name) for name in ("os", "torch")}
        vars(module).update(also)
        module.__all__ = [*also, *(new.rpartition(".")[2] for new in ours.values())]  # type: ignore[attr-defined]


sys.meta_path.insert(0, _Finder())

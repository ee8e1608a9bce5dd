"""Makes the reference: one page for each public module, and one that lists the face's names."""

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import loopwright

# In the order of the list beside the pages. A name of the face whose module is missing here has no
# page to link to, and the strict build says so.
MODULES = (
    "loopwright.trainer",
    "loopwright.callbacks",
    "loopwright.default_callbacks",
    "loopwright.events",
    "loopwright.loop_map",
    "loopwright.history",
    "loopwright.run_config",
    "loopwright.placeholders",
    "loopwright.schedulers",
    "loopwright.data",
    "loopwright.finetuning",
    "loopwright.seed",
    "loopwright.processes",
    "loopwright.progress",
    "loopwright.errors",
)


def title_of(module: str) -> str:
    """Return the name without the package's, as it stands in the list of pages."""
    return module.removeprefix("loopwright.")


def page_of(module: str) -> str:
    """Return the path of a module's page below docs/."""
    return f"reference/{title_of(module)}.md"


def home_of(owner: ModuleType, name: str) -> str:
    """Return where a listed name is defined, which is where its text stands."""
    value = getattr(owner, name)
    module = getattr(value, "__module__", owner.__name__)
    return f"{module}.{getattr(value, '__qualname__', name)}"


def links(owner: ModuleType) -> str:
    """Return one line for each name that a module lists, linked to its text."""
    names = [name for name in owner.__all__ if not name.startswith("_")]
    return "\n".join(f"- [`{name}`][{home_of(owner, name)}]" for name in names)


def package_page(package: ModuleType) -> str:
    """Return the page of a package: what it lists, then the text of its files."""
    name = package.__name__
    files = [item.name for item in pkgutil.iter_modules(package.__path__, f"{name}.")]
    sections = [f"::: {file}\n    options:\n      heading_level: 2\n" for file in files]
    head = f"::: {name}\n    options:\n      members: false\n"
    return "\n".join([head, links(package), "", *sections])


def module_page(name: str) -> str:
    """Return the page of one module."""
    module = importlib.import_module(name)
    return package_page(module) if hasattr(module, "__path__") else f"::: {name}\n"


def index_page(modules: Iterable[str]) -> str:
    """Return the page that lists the names of `loopwright` and the modules below it."""
    rows = "\n".join(f"- [`{name}`][{name}]" for name in modules)
    return f"# Reference\n\n## Names of loopwright\n\n{links(loopwright)}\n\n## Modules\n\n{rows}\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference behind the pages that are written by hand."""
    pages = ["reference/index.md", *({title_of(name): page_of(name)} for name in MODULES)]
    config.nav = [*(config.nav or []), {"Reference": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference, which exist only while the site is built."""
    files.append(File.generated(config, "reference/index.md", content=index_page(MODULES)))
    for name in MODULES:
        files.append(File.generated(config, page_of(name), content=module_page(name)))
    return files

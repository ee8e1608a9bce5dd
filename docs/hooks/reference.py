"""Makes the reference: one page for each public module, and one that lists the face's names."""

import importlib.util
import inspect
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
    "loopwright.hooks",
    "loopwright.callbacks",
    "loopwright.default_callbacks",
    "loopwright.finite",
    "loopwright.forensics",
    "loopwright.limits",
    "loopwright.events",
    "loopwright.loop_map",
    "loopwright.history",
    "loopwright.run_config",
    "loopwright.placeholders",
    "loopwright.schedulers",
    "loopwright.plots",
    "loopwright.trainers",
    "loopwright.rate_finder",
    "loopwright.rate_selection",
    "loopwright.data",
    "loopwright.ema",
    "loopwright.finetuning",
    "loopwright.trainloop",
    "loopwright.adapters.lightning",
    "loopwright.loop_callbacks",
    "loopwright.loop_schedulers",
    "loopwright.tracking",
    "loopwright.experiment",
    "loopwright.experiment_components",
    "loopwright.fitted",
    "loopwright.inference",
    "loopwright.artifact",
    "loopwright.compare",
    "loopwright.project",
    "loopwright.scaffold",
    "loopwright.sealed",
    "loopwright.inputs",
    "loopwright.serving",
    "loopwright.stages",
    "loopwright.registry",
    "loopwright.datasets",
    "loopwright.preprocessors",
    "loopwright.augmentors",
    "loopwright.trackers",
    "loopwright.models",
    "loopwright.components",
    "loopwright.results",
    "loopwright.experiment_folder",
    "loopwright.checkpoint_policy",
    "loopwright.execution.report",
    "loopwright.storage",
    "loopwright.weights_hash",
    "loopwright.memory",
    "loopwright.run_folder",
    "loopwright.report",
    "loopwright.seed",
    "loopwright.processes",
    "loopwright.notebook",
    "loopwright.progress",
    "loopwright.errors",
)


def title_of(module: str) -> str:
    """Return the name without the package's, as it stands in the list of pages."""
    return module.removeprefix("loopwright.")


def page_of(module: str) -> str:
    """Return the path of a module's page below docs/."""
    return f"reference/{title_of(module)}.md"


def line_for(owner: ModuleType, name: str) -> str:
    """Return one line of a list: a class or function is linked to where it is defined."""
    value = getattr(owner, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"- [`{name}`][{value.__module__}.{value.__qualname__}]"
    return f"- `{name}`"


def links(owner: ModuleType) -> str:
    """Return one line for each name that a module lists."""
    names = [name for name in getattr(owner, "__all__", ()) if not name.startswith("_")]
    return "\n".join(line_for(owner, name) for name in names)


def package_page(name: str) -> str:
    """Return the page of a package: what it lists, then the text of its files."""
    package = importlib.import_module(name)
    files = [item.name for item in pkgutil.iter_modules(package.__path__, f"{name}.")]
    sections = [f"::: {file}\n    options:\n      heading_level: 2\n" for file in files]
    return "\n".join([links(package), "", f"::: {name}\n", *sections])


def page_text(name: str) -> str:
    """Return the page of one module or package."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        return package_page(name)
    return f"::: {name}\n"


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
        files.append(File.generated(config, page_of(name), content=page_text(name)))
    return files

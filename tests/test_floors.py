"""The floors of the package: a file imports only from its own floor or from lower ones.

The imports are read from the syntax tree, so nothing here depends on what happens to be installed.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "loopwright"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

# Floor of every file, by its path below src/loopwright. A folder's entry ends in "/" and holds for
# all files in it.
FLOORS = {
    # 1: values
    "checkpoint_policy.py": 1,
    "errors.py": 1,
    "extras.py": 1,
    "plain_values.py": 1,
    "processes.py": 1,
    "progress.py": 1,
    "progress_bar.py": 1,
    "run_config.py": 1,
    "seed.py": 1,
    # 2: state
    "accumulation.py": 2,
    "batches.py": 2,
    "buffers.py": 2,
    "checkpoint.py": 2,
    "checkpoint_store.py": 2,
    "ends.py": 1,
    "positions.py": 2,
    "data.py": 2,
    "default_callbacks.py": 2,
    "device.py": 2,
    "environment.py": 2,
    "events.py": 2,
    "exports.py": 2,
    "finite.py": 2,
    "forensics.py": 2,
    "hints.py": 2,
    "history.py": 2,
    "limits.py": 2,
    "columns.py": 1,
    "lean_loader.py": 1,
    "loaders.py": 2,
    "loop_map.py": 2,
    "memory.py": 2,
    "modes.py": 2,
    "out_of_memory.py": 2,
    "outputs.py": 2,
    "placeholders.py": 2,
    "report.py": 2,
    "run_folder.py": 2,
    "run_lock.py": 2,
    "run_log.py": 2,
    "run_record.py": 2,
    "storage/": 2,
    "schedulers/": 2,
    "states.py": 2,
    "train_arguments.py": 2,
    "training_state.py": 2,
    "watching.py": 2,
    "weights_hash.py": 2,
    # 3: the loop
    "execution/": 3,
    "feed.py": 3,
    "hooks.py": 3,
    "keeper.py": 3,
    "trainer.py": 3,
    # 4: plug-ins
    "adapters/": 4,
    "arguments.py": 4,
    "augmentors/": 4,
    "callbacks/": 4,
    "compare.py": 4,
    "components/": 4,
    "config_file.py": 4,
    "datasets/": 4,
    "ema.py": 4,
    "experiment_folder.py": 4,
    "finetuning.py": 4,
    "loop_callbacks/": 4,
    "loop_schedulers/": 4,
    "fitted.py": 4,
    "inference.py": 4,
    "inputs.py": 4,
    "models/": 4,
    "plots.py": 4,
    "preprocessors/": 4,
    "problems.py": 4,
    "trainers/": 4,
    "rate_finder.py": 4,
    "rate_selection.py": 4,
    "sealed.py": 4,
    "registry.py": 4,
    "results/": 4,
    "tracking/": 4,
    "trackers/": 4,
    "stages.py": 4,
    # 5: faces
    "__init__.py": 5,
    "__main__.py": 5,
    "artifact.py": 5,
    "cli.py": 5,
    "cli_data.py": 5,
    "preview.py": 5,
    "cli_artifacts.py": 5,
    "cli_exits.py": 5,
    "cli_projects.py": 5,
    "cli_storage.py": 5,
    "cli_training.py": 5,
    "console.py": 5,
    "experiment.py": 5,
    "experiment_components.py": 5,
    "experiment_checks.py": 5,
    "experiment_config.py": 5,
    "experiment_tracking.py": 5,
    "experiment_parts.py": 5,
    "experiment_place.py": 5,
    "experiment_preparation.py": 5,
    "experiment_run.py": 5,
    "json_events.py": 5,
    "notebook.py": 5,
    "project/": 5,
    "replaying.py": 5,
    "scaffold.py": 5,
    "resuming.py": 5,
    "serving.py": 5,
    "trainloop/": 5,
}
CORE = {"numpy", "safetensors", "torch"}
# Modules of ours that a file may import inside a function, where they are seldom needed and would
# take `from loopwright import Trainer` past 5 % of `import torch`.
DEFERRED = {
    "default_callbacks.py": {"loopwright.forensics"},
    "trainer.py": {"loopwright.execution.stepping", "loopwright.exports", "loopwright.loop_map"},
    "keeper.py": {"loopwright.run_lock", "loopwright.run_log", "loopwright.storage"},
}
FACES = 5


@dataclass(frozen=True)
class Import:
    """One imported module and where the statement stands."""

    module: str
    line: int
    in_function: bool
    for_types: bool
    names: tuple[str, ...] = ()


def source_files() -> list[str]:
    return sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def floor_of(file: str) -> int | None:
    """Return the floor of a file: its own entry, else that of the nearest folder above it."""
    keys = [file, *(f"{parent.as_posix()}/" for parent in Path(file).parents)]
    return next((FLOORS[key] for key in keys if key in FLOORS), None)


def module_of(file: str) -> str:
    parts = Path(PACKAGE, file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = source_files()
FILE_OF = {module_of(file): file for file in FILES}


def is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def modules_named(node: ast.Import | ast.ImportFrom, file: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each module that a statement names, with the names it takes from it."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, []) for alias in node.names)
        return
    module = node.module or ""
    if node.level:
        package = Path(PACKAGE, file).parent.parts
        base = package[: len(package) - node.level + 1]
        module = ".".join([*base, module] if module else base)
    submodules = [a.name for a in node.names if f"{module}.{a.name}" in FILE_OF]
    names = [a.name for a in node.names if a.name not in submodules]
    yield from ((f"{module}.{name}", []) for name in submodules)
    if names:
        yield module, names


def imports_of(tree: ast.Module, file: str) -> list[Import]:
    """Return the imports of one file, the ones inside functions and type checks marked."""
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool, for_types: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend(
                Import(module, node.lineno, in_function, for_types, tuple(names))
                for module, names in modules_named(node, file)
            )
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.body:
                visit(child, in_function, True)
            for child in node.orelse:
                visit(child, in_function, for_types)
            return
        deeper = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, in_function or deeper, for_types)

    visit(tree, False, False)
    return found


def read(file: str) -> ast.Module:
    return ast.parse((SOURCE / file).read_text(encoding="utf-8"), filename=file)


IMPORTS = {file: imports_of(read(file), file) for file in FILES}


def is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def ours(file: str) -> list[Import]:
    return [item for item in IMPORTS[file] if is_ours(item.module)]


def theirs(file: str) -> list[Import]:
    """Return the imports of one file that are neither ours nor of the standard library."""
    known = sys.stdlib_module_names | {PACKAGE}
    return [item for item in IMPORTS[file] if item.module.split(".")[0] not in known]


def names_the_trainer_for_types(item: Import) -> bool:
    return item.for_types and item.module == f"{PACKAGE}.trainer" and item.names == ("Trainer",)


def upward(file: str) -> list[str]:
    """Return the imports of one file that break the floors, one sentence each."""
    floor, wrong = floor_of(file), []
    for item in ours(file):
        target = FILE_OF.get(item.module)
        if item.module == PACKAGE:
            wrong.append(f"{file}:{item.line} imports the face; name the file that defines it")
        elif target is None:
            wrong.append(f"{file}:{item.line} imports {item.module}, which does not exist")
        # Callbacks of floor 2 get the trainer as an argument and may annotate it.
        elif floor == 2 and names_the_trainer_for_types(item):
            continue
        elif (floor_of(target) or 0) > (floor or 0):
            wrong.append(
                f"{file}:{item.line} (floor {floor}) imports {target} (floor {floor_of(target)})"
            )
    return wrong


def test_every_file_has_a_floor() -> None:
    missing = [file for file in FILES if floor_of(file) is None]
    assert not missing, f"add {missing} to FLOORS in {Path(__file__).name}, each with its floor"


def test_the_reader_sees_imports() -> None:
    """The checks below would pass on nothing; the reader is tried on known text first."""
    text = (
        "import torch.nn\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from loopwright.trainer import Trainer\n"
        "def f():\n    from .cosine import CosineLrScheduler\n    from .. import history\n"
    )
    found = imports_of(ast.parse(text), "schedulers/base.py")
    assert [(i.module, i.in_function, i.for_types, i.names) for i in found] == [
        ("torch.nn", False, False, ()),
        ("typing", False, False, ("TYPE_CHECKING",)),
        ("loopwright.trainer", False, True, ("Trainer",)),
        ("loopwright.schedulers.cosine", True, False, ("CosineLrScheduler",)),
        ("loopwright.history", True, False, ()),
    ]


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down(file: str) -> None:
    assert upward(file) == []


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return one cycle of a graph as a closed path, or an empty list."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if cycle := walk(target, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := walk(node, []))), [])


def test_the_search_for_cycles_finds_one() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_import_cycles() -> None:
    """Imports for annotations are left out: at run time they do not happen."""
    graph = {
        file: {FILE_OF[i.module] for i in ours(file) if i.module in FILE_OF and not i.for_types}
        for file in FILES
    }
    cycle = find_cycle(graph)
    assert not cycle, " -> ".join(cycle)


@pytest.mark.parametrize("file", FILES)
def test_imports_in_functions_are_optional_packages(file: str) -> None:
    """Inside a function stands what may be missing; ours only in a face, which starts lazily.

    Floor 1 may wait for torch and numpy, so that its values cost nothing to import.
    """
    floor = floor_of(file)
    for item in IMPORTS[file]:
        root = item.module.split(".")[0]
        if not item.in_function or (floor == FACES and (is_ours(root) or root in CORE)):
            continue
        if item.module in DEFERRED.get(file, ()):
            continue
        where = f"{file}:{item.line}: {item.module}"
        assert not is_ours(root), f"{where} is ours: it hides an import at the top of the file"
        assert root not in sys.stdlib_module_names, f"{where} belongs at the top of the file"
        assert root not in CORE or floor == 1, f"{where} is always there: import it at the top"


@pytest.mark.parametrize("file", [f for f in FILES if (floor_of(f) or 0) < FACES])
def test_only_the_core_is_imported_at_the_top(file: str) -> None:
    """Torch, numpy and safetensors are enough to import everything below the faces."""
    top = {i.module.split(".")[0]: i.line for i in theirs(file) if not i.in_function}
    extra = {name: line for name, line in top.items() if name not in CORE}
    assert not extra, f"{file} imports {extra} at the top; import it where it is used"


def modules_imported_by_name(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the constant strings handed to importlib, with their lines."""
    importers = {"import_module", "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in importers:
                yield str(node.args[0].value), node.lineno


@pytest.mark.parametrize("file", [f for f in FILES if (floor_of(f) or 0) < FACES])
def test_nothing_of_ours_is_imported_by_name(file: str) -> None:
    """A name of ours handed to importlib would go round the floors; only the face may do it."""
    hidden = [(name, line) for name, line in modules_imported_by_name(read(file)) if is_ours(name)]
    assert not hidden, f"{file} goes round the floors: {hidden}"

"""Importing is innocent and light: what is loaded, what is left alone, what the face offers.

Each question is asked in a fresh interpreter, since this one has imported everything long ago.
"""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

import loopwright

# What may be loaded by `from loopwright import Trainer` on top of `import torch`, beside the
# standard library, by the first part of its name.
CORE = {"loopwright", "numpy", "safetensors", "torch"}
# Parts of torch that cost more to import than the Trainer is allowed to: they are for a step that
# is compiled, or for several processes, and wait until they are needed.
HEAVY_TORCH = ("torch._dynamo", "torch._inductor", "torch.fx.experimental", "torch.onnx")


def fresh(code: str) -> Any:
    """Run code in a new interpreter and return the JSON that it prints last."""
    # Bytecode would be a file written by the interpreter, not by the import that is watched.
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@cache
def modules_after(code: str) -> frozenset[str]:
    return frozenset(fresh(f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"))


def roots(modules: frozenset[str]) -> set[str]:
    """Return the first parts of names that the standard library does not own."""
    found = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    # An editable install adds finders of its own, and C extensions may add private helpers.
    return {name for name in found if not name.startswith("_")}


def test_the_face_loads_nothing_but_itself() -> None:
    before = modules_after("pass")
    added = modules_after("import loopwright") - before
    assert "loopwright" in added
    assert roots(added) == {"loopwright"}


def test_help_loads_no_torch() -> None:
    pytest.importorskip("typer")
    loaded = modules_after(
        "import sys\n"
        "from loopwright.cli import main\n"
        "sys.argv = ['loopwright', '--help']\n"
        "try:\n    code = main()\nexcept SystemExit as end:\n    code = end.code\n"
        "assert not code, code"
    )
    assert "typer" in loaded
    assert not {"torch", "numpy", "sklearn", "torchmetrics"} & loaded


def test_the_trainer_loads_the_core_alone() -> None:
    added = modules_after("import torch\nfrom loopwright import Trainer")
    added -= modules_after("import torch")
    assert "loopwright.trainer" in added
    assert roots(added) <= CORE


def test_the_trainer_does_not_load_the_heavy_parts_of_torch() -> None:
    added = modules_after("import torch\nfrom loopwright import Trainer")
    added -= modules_after("import torch")
    assert not [name for name in added if name.startswith(HEAVY_TORCH)]


# Everything that an import could change for its caller, as text that can be compared.
WATCH = """
import hashlib, json, logging, os, pkgutil, random, signal, sys, threading, warnings
import numpy, safetensors.torch, torch
{third_parties}

touched = []
WATCHED = ("subprocess.Popen", "os.system", "socket.connect", "socket.bind", "os.mkdir",
           "os.remove", "os.rename", "os.putenv", "os.fork", "os.posix_spawn")

def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()

def logger_state():
    loggers = {{"root": logging.getLogger(), "loopwright": logging.getLogger("loopwright")}}
    return {{n: [[repr(h) for h in x.handlers], x.level, x.propagate] for n, x in loggers.items()}}

def state():
    return {{
        "python random": digest(random.getstate()),
        "numpy random": digest(numpy.random.get_state()[1].tolist()),
        "torch random": [torch.initial_seed(), digest(torch.get_rng_state().tolist())],
        "torch settings": [torch.get_num_threads(), str(torch.get_default_dtype()),
                           torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
                           torch.get_float32_matmul_precision()],
        "log handlers": logger_state(),
        "signal handlers": {{s.name: repr(signal.getsignal(s)) for s in signal.valid_signals()
                            if isinstance(s, signal.Signals)}},
        "environment": dict(os.environ),
        "warning filters": repr(warnings.filters),
        "threads": threading.active_count(),
        "hooks": [repr(sys.excepthook), repr(sys.displayhook), repr(threading.excepthook)],
        "path": list(sys.path),
        "folder": os.getcwd(),
    }}

def audit(event, args):
    if event == "open":
        path, mode, flags = args
        writing = mode and set(mode) & set("wax+")
        if writing or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            touched.append(["open", str(path)])
    elif event in WATCHED:
        touched.append([event, str(args)])

before = state()
sys.addaudithook(audit)
{imports}
after = state()
changed = {{key: [before[key], after[key]] for key in before if before[key] != after[key]}}
print(json.dumps({{"changed": changed, "touched": touched}}))
"""


def every_module() -> list[str]:
    """Return all modules of the package except the one that runs when it is imported."""
    found = pkgutil.walk_packages(loopwright.__path__, "loopwright.")
    return [item.name for item in found if not item.name.endswith("__main__")]


def watched(imports: str, third_parties: str = "") -> Any:
    return fresh(WATCH.format(imports=imports, third_parties=third_parties))


def test_the_watch_sees_what_it_watches() -> None:
    """The two tests below would pass on a blind watch."""
    seen = watched(
        "random.seed(1); numpy.random.seed(1); torch.manual_seed(1)\n"
        "logging.basicConfig(); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.environ['LOOPWRIGHT_TEST'] = '1'; warnings.simplefilter('ignore')\n"
        "open(os.devnull, 'w').close()"
    )
    assert set(seen["changed"]) == {
        *("python random", "numpy random", "torch random"),
        *("log handlers", "signal handlers", "environment", "warning filters"),
    }
    assert ["open", os.devnull] in seen["touched"]


def test_importing_the_trainer_changes_nothing() -> None:
    seen = watched("from loopwright import *\nfrom loopwright import Trainer")
    assert seen == {"changed": {}, "touched": []}


def test_importing_every_module_changes_nothing() -> None:
    """Packages of others are imported before the watch starts: what they do is theirs."""
    for name in ("typer", "rich", "yaml", "pydantic", "lightning"):
        pytest.importorskip(name)
    modules = "\n".join(f"import {name}" for name in every_module())
    theirs = "import typer, rich.console, rich.progress, yaml, pydantic, lightning.pytorch"
    seen = watched(modules, theirs)
    assert seen == {"changed": {}, "touched": []}


def test_importing_prints_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from loopwright import *"], capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_importing_an_extra_leaves_the_random_state_alone() -> None:
    """A run imports extras in its middle; sklearn.metrics draws from `random` when imported."""
    pytest.importorskip("sklearn")
    same = fresh(
        "import json, random\n"
        "from loopwright.extras import require\n"
        "before = random.getstate()\n"
        "require('sklearn.metrics', extra='sklearn')\n"
        "print(json.dumps(random.getstate() == before))"
    )
    assert same is True


def test_all_is_what_can_be_reached() -> None:
    modules = {item.name for item in pkgutil.iter_modules(loopwright.__path__)}
    public = {name for name in dir(loopwright) if not name.startswith("_")} - modules
    listed = {name for name in loopwright.__all__ if not name.startswith("_")}
    assert public == listed
    assert len(loopwright.__all__) == len(set(loopwright.__all__))


@pytest.mark.parametrize("name", loopwright.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(loopwright, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__module__.startswith("loopwright.")
        # A class would otherwise show its parent's sentence.
        own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own, f"loopwright.{name} has no docstring"
        assert own.strip()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="Trainr"):
        getattr(loopwright, "Trainr")  # noqa: B009 -- a type checker would refuse the attribute
    with pytest.raises(ImportError):
        importlib.import_module("loopwright.trainr")


@pytest.mark.parametrize("name", every_module())
def test_what_a_module_lists_it_has(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as missing:
        pytest.skip(f"needs an extra: {missing}")
    listed = getattr(module, "__all__", [])
    absent = [entry for entry in listed if not hasattr(module, entry)]
    assert not absent
    assert module.__doc__, f"{name} opens without a docstring"

"""The package's outside: versions, extras, constraints, Makefile, licence and hooks agree."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAME = re.compile(r"^[A-Za-z0-9_.-]+")


def normal(requirement: str) -> str:
    """Return the package a requirement names, spelt the way that indexes compare names."""
    match = NAME.match(requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def pins() -> dict[str, str]:
    """Return the exact version of every package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def requirements() -> dict[str, list[str]]:
    project = PROJECT["project"]
    build = {"build": PROJECT["build-system"]["requires"]}
    return {"": project["dependencies"], **project["optional-dependencies"], **build}


def lower_bound(requirement: str) -> tuple[int, ...] | None:
    found = re.search(r">=([0-9.]+)", requirement)
    return numbers(found[1]) if found else None


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def targets() -> dict[str, str]:
    """Return every target of the Makefile that a person calls, with the text after its colon."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z][a-z-]*):(?!=)(.*)$", text, flags=re.MULTILINE))


def test_the_loop_needs_three_packages() -> None:
    assert sorted(map(normal, PROJECT["project"]["dependencies"])) == [
        "numpy",
        "safetensors",
        "torch",
    ]


def test_no_extra_is_empty_and_none_needs_torchvision() -> None:
    for extra, wanted in requirements().items():
        assert wanted, f"extra {extra!r} is empty"
        assert "torchvision" not in map(normal, wanted), extra
    assert "torchvision" not in pins()


def test_everything_required_is_pinned_within_its_bound() -> None:
    pinned = pins()
    assert pinned["torch"] == "2.13.0"
    for extra, wanted in requirements().items():
        for requirement in wanted:
            version = pinned.get(normal(requirement))
            assert version, f"{requirement} ({extra or 'core'}) is not in constraints.txt"
            assert numbers(version) >= (lower_bound(requirement) or ()), requirement


def extras_asked_for() -> set[str]:
    """Return every extra that the package names in a call of `require(module, extra)`."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.glob("src/**/*.py"))
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    required = [call for call in calls if ast.unparse(call.func).split(".")[-1] == "require"]
    named = [[*call.args[1:2], *(k.value for k in call.keywords)] for call in required]
    return {str(node.value) for row in named for node in row if isinstance(node, ast.Constant)}


def test_every_extra_that_the_package_names_exists() -> None:
    assert "sklearn" in extras_asked_for()
    assert extras_asked_for() <= set(PROJECT["project"]["optional-dependencies"])


def test_the_changelog_opens_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^]]*)\]", text, flags=re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]


def test_every_make_target_has_a_help_line() -> None:
    bare = [name for name, rest in targets().items() if not re.search(r" ## \S", rest)]
    assert targets()
    assert not bare, f"{bare}: add `## what it does` behind the colon"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_prints_every_target() -> None:
    # The test run may itself come from make, whose flags must not reach this one.
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make"], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    shown = re.findall(r"^ +make ([a-z-]+) ", done.stdout, flags=re.MULTILINE)
    assert shown == list(targets())
    assert {"demo", "test", "lint", "types", "docs", "help"} <= set(shown)


def test_every_install_is_constrained() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)


def test_ci_runs_what_the_makefile_offers() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    called = re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE)
    assert called[-1] == "test"
    assert set(called) <= set(targets())


def test_the_types_ship_and_the_licence_is_there() -> None:
    assert (ROOT / "src" / "loopwright" / "py.typed").is_file()
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_the_console_script_exists() -> None:
    module, _, function = PROJECT["project"]["scripts"]["loopwright"].partition(":")
    file = ROOT / "src" / Path(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in functions


def test_commit_hooks_are_local() -> None:
    """A hook fetched from elsewhere would need the network and could drift from the pins."""
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^ *- repo: (.*)$", text, flags=re.MULTILINE) == ["local"]
    entries = re.findall(r"entry: (\S+)", text)
    assert entries
    assert all(entry.startswith(".venv/bin/") for entry in entries)

"""Writing a project from a template: text files in which a few placeholders are filled in."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from loopwright.errors import ConfigurationError
from loopwright.registry import nearest_name

SUMMARIES = {
    "classification": "Tells handwritten digits apart.",
    "regression": "Predicts how a disease goes on.",
    "text": "Tells texts apart by their topic.",
    "gan": "Generates handwritten digits, with a generator and a discriminator.",
    "lightning": "Tells handwritten digits apart, with a LightningModule.",
}
"""The templates, and what each makes."""

REQUIREMENT = "loopwright[cli,onnx,plots,sklearn,tables]"
"""What a project needs."""
REQUIREMENTS = {"lightning": "loopwright[cli,lightning,onnx,plots,sklearn,tables]"}
"""What those of some templates need instead."""
IGNORED = {
    "lightning": """
    # Lightning 2.6 asks what a node of a tree is in a way that newer versions of torch warn of.
    "ignore:.*LeafSpec:FutureWarning",
    # Its advice on speed, which small data does not need.
    "ignore:The '.*_dataloader' does not have many workers:UserWarning",
    "ignore:The number of training batches:UserWarning","""
}
"""Warnings that others cause in the tests of a template."""
TYPES = {
    "lightning": """# To read all of Lightning takes a minute; what is not read is of no known type.
disallow_subclassing_any = false

[[tool.mypy.overrides]]
module = ["lightning.*"]
follow_imports = "skip"
"""
}
"""Settings of mypy for what a template is built on."""

_SUFFIX = ".txt"  # keeps tools that check Python files from reading templates


@dataclass(frozen=True)
class Written:
    """Tells what was written to a project, as paths below its folder."""

    folder: Path
    created: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Files that were there already, and were left alone."""

    def __str__(self) -> str:
        lines = [f"Created {self.folder}/{name}" for name in self.created]
        lines += [f"Left alone {self.folder}/{name}, which is there already" for name in self.kept]
        return "\n".join(lines)


def class_prefix(name: str) -> str:
    """Return the beginning of class names: `my-digits` becomes `MyDigits` (D-08).

    Raises:
        ConfigurationError: no name of a class can be made of it.
    """
    prefix = "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", name))
    if not prefix.isidentifier() or not prefix.isascii():
        raise ConfigurationError(
            f"{name!r} makes no name of a class: {prefix!r}. Name the project with letters, "
            "digits, - and _, beginning with a letter."
        )
    return prefix


def write_project(folder: str | Path, template: str = "classification") -> Written:
    """Write a whole project into a folder that is new or empty.

    Raises:
        ConfigurationError: the template is unknown, the name makes no class, or the folder holds
            something.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            f"{folder} is there already. Name another folder, or add what is missing with: "
            f"cd {folder} && loopwright new --add trainer"
        )
    return _write(folder, template, below="")


def add_trainer(folder: str | Path, template: str = "classification") -> Written:
    """Write the folder `trainer` into a project; files that are there already are left alone.

    Raises:
        ConfigurationError: the template is unknown, or the folder's name makes no class.
    """
    return _write(Path(folder).resolve(), template, below="trainer/")


def _write(folder: Path, template: str, *, below: str) -> Written:
    if template not in SUMMARIES:
        nearest = nearest_name(template, list(SUMMARIES))
        hint = f' Did you mean "{nearest}"?' if nearest else ""
        raise ConfigurationError(
            f"There is no template {template!r}. Known: {', '.join(SUMMARIES)}.{hint}"
        )
    name = folder.resolve().name
    values = {
        "Project": class_prefix(name),
        "project": name,
        "distribution": re.sub(r"[-_.\s]+", "-", name).lower(),
        "summary": SUMMARIES[template],
        "requirement": REQUIREMENTS.get(template, REQUIREMENT),
        "types": TYPES.get(template, ""),
        "ignored": IGNORED.get(template, ""),
    }
    written = Written(folder)
    for path, text in _template(template).items():
        if not path.startswith(below):
            continue
        target = folder / path
        if target.exists():
            written.kept.append(path)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(fill(text, values), encoding="utf-8")
        if text.startswith("#!"):
            target.chmod(0o755)
        written.created.append(path)
    return written


def fill(text: str, values: dict[str, str]) -> str:
    """Return a text with the value of each `{{name}}` in its place.

    Raises:
        KeyError: a name has no value.
    """
    return re.sub(r"{{(\w+)}}", lambda match: values[match[1]], text)


def _template(name: str) -> dict[str, str]:
    """Return the texts of a template by their paths; its own take the place of those below."""
    root = files("loopwright") / "templates"
    below = ("common", "classification") if name == "lightning" else ("common",)
    found = {path: text for layer in (*below, name) for path, text in _texts(root / layer)}
    return dict(sorted(found.items()))


def _texts(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _texts(each, f"{above}{each.name}/")
        else:
            yield f"{above}{each.name.removesuffix(_SUFFIX)}", each.read_text(encoding="utf-8")


def install_trainer_packages(folder: str | Path) -> int:
    """Install what `trainer/requirements_trainer.txt` of a project lists; return pip's exit code.

    Raises:
        ConfigurationError: there is no such file.
    """
    path = Path(folder) / "trainer" / "requirements_trainer.txt"
    if not path.is_file():
        raise ConfigurationError(
            f"There is no {path}. Go to the project's folder, or write its files with: "
            "loopwright new --add trainer"
        )
    return subprocess.call([sys.executable, "-m", "pip", "install", "-r", str(path)])

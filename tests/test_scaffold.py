"""Writing projects: what stands where, what is left alone, and that it runs."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner  # noqa: E402

from loopwright.cli import make_app  # noqa: E402
from loopwright.errors import ConfigurationError  # noqa: E402
from loopwright.scaffold import (  # noqa: E402
    SUMMARIES,
    add_trainer,
    class_prefix,
    fill,
    install_trainer_packages,
    write_project,
)

MODULES = ("main", "data", "model", "train", "test", "config", "comparison", "dataset_preparation")


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments])


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def classes_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("template", SUMMARIES)
def test_D_01_and_D_02_the_documented_modules_are_there(place: Path, template: str) -> None:
    result = run("new", "my-digits", "--template", template)
    assert result.exit_code == 0, result.output
    assert "python -m trainer.main" in result.output
    found = files_in(place / "my-digits")
    assert {f"trainer/{name}.py" for name in MODULES} <= found
    assert (
        not {"trainer/compare.py", "trainer/trainer_main.py", "trainer/dataset_prepare.py"} & found
    )
    tools = {"README.md", "pyproject.toml", ".gitignore", "ci.sh", ".github/workflows/ci.yml"}
    assert tools | {"tests/test_trainer.py", "requirements_docker.txt"} <= found
    assert os.access(place / "my-digits" / "ci.sh", os.X_OK)
    for path in (place / "my-digits").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"))
    leftover = [name for name in found if "{{Project" in (place / "my-digits" / name).read_text()]
    assert leftover == []


@pytest.mark.parametrize("template", SUMMARIES)
def test_D_06_classes_are_named_after_the_project(place: Path, template: str) -> None:
    trainer = write_project("my_big-project", template).folder / "trainer"
    named = {
        "data": "Data",
        "model": "Model",
        "train": "Train",
        "test": "Test",
        "comparison": "Comparison",
        "dataset_preparation": "DatasetPreparation",
        "pl_wrapper/data_module": "DataModule",
        "pl_wrapper/plmodel": "Plmodel",
        "pl_wrapper/network_module": "NetworkModule",
        "pl_wrapper/custom_dataset": "CustomDataset",
        "pl_wrapper/iterable_dataset": "IterableDataset",
    }
    for module, name in named.items():
        assert f"MyBigProject{name}" in classes_in(trainer / f"{module}.py"), module
    assert classes_in(trainer / "main.py") == {"Main"}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("digits", "Digits"),
        ("my-digits", "MyDigits"),
        ("my_digits 2", "MyDigits2"),
        ("a.b", "AB"),
        ("myDigits", "MyDigits"),
    ],
)
def test_D_08_the_folder_becomes_the_prefix(name: str, prefix: str) -> None:
    assert class_prefix(name) == prefix


@pytest.mark.parametrize("name", ["2digits", "größe", "---", "1"])
def test_D_08_a_name_that_makes_no_class_is_refused(place: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="makes no name of a class"):
        write_project(place / name)
    assert files_in(place) == set()


def test_D_05_and_D_07_adding_leaves_what_is_there_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "shop"
    (project / "trainer").mkdir(parents=True)
    (project / "trainer" / "model.py").write_text("mine = 1\n")
    (project / "README.md").write_text("ours\n")
    monkeypatch.chdir(project)
    first = run("new", "--add", "trainer")
    assert first.exit_code == 0, first.output
    assert "Left alone" in first.output
    assert (project / "trainer" / "model.py").read_text() == "mine = 1\n"
    found = files_in(project)
    assert {f"trainer/{name}.py" for name in MODULES} <= found
    assert "trainer/requirements_trainer.txt" in found
    assert {name for name in found if not name.startswith("trainer/")} == {"README.md"}
    assert "ShopTrain" in classes_in(project / "trainer" / "train.py")
    before = {name: (project / name).stat().st_mtime_ns for name in found}
    second = add_trainer(project)
    assert second.created == []
    assert {*second.kept, "README.md"} == found
    assert {name: (project / name).stat().st_mtime_ns for name in found} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Expected either the NAME of a new project or --add trainer"),
        (("a", "--add", "trainer"), "Expected either"),
        (("--add", "deploy"), "--add deploy: expected trainer"),
        (("a", "--template", "classifcation"), 'Did you mean "classification"?'),
        (("full",), "is there already. Name another folder"),
    ],
)
def test_what_cannot_be_written_is_refused(place: Path, arguments: Any, message: str) -> None:
    (place / "full").mkdir()
    (place / "full" / "file").write_text("")
    result = run("new", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert files_in(place) == {"full/file"}


def test_a_placeholder_without_a_value_is_an_error() -> None:
    assert fill("{{a}} {b} {{ c }}", {"a": "1"}) == "1 {b} {{ c }}"
    with pytest.raises(KeyError, match="missing"):
        fill("{{missing}}", {})


def test_D_04_and_D_78_a_command_installs_the_requirements_after_those_of_docker(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_project("shop").folder
    steps = re.findall(
        r"^(pip install .*|loopwright .*)$", (folder / "README.md").read_text(), re.M
    )
    assert steps == [
        "pip install -r requirements_docker.txt",
        "loopwright install-trainer-packages",
    ]
    with pytest.raises(ConfigurationError, match=r"There is no .*requirements_trainer\.txt"):
        install_trainer_packages(place)
    # What is installed already needs no network.
    (folder / "trainer" / "requirements_trainer.txt").write_text("numpy\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)  # a path that holds in the checkout alone
    assert install_trainer_packages(folder) == 0
    (folder / "trainer" / "requirements_trainer.txt").write_text("no-such-package-anywhere\n")
    assert install_trainer_packages(folder) != 0


def test_D_04_what_is_required_is_what_the_extras_of_loopwright_are_called() -> None:
    """A project asks for extras by name; a wrong one would only be a warning of pip."""
    import tomllib

    from loopwright.scaffold import REQUIREMENT, REQUIREMENTS

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    known = tomllib.loads(text)["project"]["optional-dependencies"]
    for requirement in (REQUIREMENT, *REQUIREMENTS.values()):
        asked = re.fullmatch(r"loopwright\[([\w,]+)\]", requirement)
        assert asked is not None
        assert set(asked[1].split(",")) <= set(known)


def test_D_76_each_module_says_what_it_stands_for_in_lightning() -> None:
    page = Path(__file__).parents[1] / "docs" / "migrating" / "dsf.md"
    row = r"^\| `(\w+)\.py` \| .* \| (.*) \|$"
    rows = dict(re.findall(row, page.read_text(encoding="utf-8"), re.M))
    assert rows == {
        "data": "`LightningDataModule`",
        "model": "`LightningModule`",
        "train": "`Trainer.fit`",
        "test": "`Trainer.test`",
        "config": "`ModelCheckpoint`, `EarlyStopping`",
        "main": "none",
        "comparison": "none",
        "dataset_preparation": "none",
    }


@pytest.fixture
def regression(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the imported `trainer.main` of a project of numbers."""
    for name in ("sklearn", "scipy", "matplotlib"):
        pytest.importorskip(name)
    write_project("patients", "regression")
    monkeypatch.syspath_prepend(str(place / "patients"))
    monkeypatch.setattr(sys, "argv", ["main"])
    yield importlib.import_module("trainer.main")
    for name in [each for each in sys.modules if each.split(".")[0] == "trainer"]:
        del sys.modules[name]


def test_D_77_main_does_one_after_the_other(
    regression: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regression.config["trainer_config"]["max_epochs"] = 3
    regression.config["model_config"].pop("save_checkpoint_as_onnx")
    assert regression.main() == 0
    output = capsys.readouterr().out
    compared = json.loads(output[output.rindex("\n{\n") :])
    assert compared.keys() == {"mean_squared_error", "mean_absolute_error"}
    for entry in compared.values():
        assert entry.keys() == {"trained", "eval", "difference", "interval"}
    run_folder = place / "patients" / "trainer" / "training_output" / "v1"
    assert {"best.pt2", "last.pt", "dataset.zip", "test_report.json"} <= files_in(run_folder)


def test_D_71_main_exits_with_1_where_the_existing_model_fails(
    regression: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(train: Any, features: Any) -> Any:
        raise OSError("no such server")

    regression.config["trainer_config"]["max_epochs"] = 1
    for kind in ("onnx", "pt2"):
        regression.config["model_config"][f"save_checkpoint_as_{kind}"] = False
    monkeypatch.setattr(regression, "existing_model", fails)
    assert regression.main() == 1
    assert "no such server" in caplog.text


def test_templates_are_read_without_torch() -> None:
    code = (
        "import sys; from loopwright.scaffold import write_project; import tempfile, os;"
        "write_project(os.path.join(tempfile.mkdtemp(), 'shop')); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"

"""Generated projects in a fresh environment, with loopwright from a wheel, as users have them.

The environment finds other packages where this one has them, so that nothing is downloaded.
"""

import json
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from loopwright.scaffold import SUMMARIES

pytestmark = pytest.mark.system

for _name in ("typer", "sklearn", "matplotlib", "onnx", "onnxscript", "hatchling"):
    pytest.importorskip(_name)

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **{
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))
    },
    "OMP_NUM_THREADS": "1",
    "PIP_NO_INDEX": "1",
}


def run(*words: object, cwd: Path) -> str:
    command = [str(word) for word in words]
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a fresh environment that loopwright's wheel is installed in."""
    folder = tmp_path_factory.mktemp("environment")
    flags = ["--no-deps", "--no-build-isolation", "--quiet"]
    run(sys.executable, "-m", "pip", "wheel", *flags, "-w", folder, ROOT, cwd=folder)
    wheel = next(folder.glob("loopwright-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if "/templates/" in name}
    source = ROOT / "src" / "loopwright" / "templates"
    templates = {f"loopwright/templates/{path.relative_to(source)}" for path in source.rglob("*.*")}
    assert {name for name in templates if name.endswith(".txt")} == names
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    found = folder / "venv" / "bin" / "python"
    inside = Path(
        run(found, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
    run(found, "-m", "pip", "install", "--no-deps", "--quiet", wheel, cwd=folder)
    (inside / "others.pth").write_text("\n".join(site.getsitepackages()))
    origin = run(found, "-c", "import loopwright; print(loopwright.__file__)", cwd=folder)
    assert Path(origin.strip()).is_relative_to(inside)
    return found


@pytest.mark.parametrize("template", SUMMARIES)
def test_main_tests_and_ci_of_every_template_run(
    python: Path, tmp_path: Path, template: str
) -> None:
    """The CI of a project runs its linter, types, tests, and `main`."""
    if template == "lightning":
        pytest.importorskip("lightning")
    run(python, "-m", "loopwright", "new", f"my-{template}", "--template", template, cwd=tmp_path)
    project = tmp_path / f"my-{template}"
    run(
        python,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-e",
        ".",
        cwd=project,
    )
    ENVIRONMENT["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    ENVIRONMENT["MYPY_CACHE_DIR"] = str(python.parent / "mypy")
    output = run("./ci.sh", cwd=project)
    assert "Success: no issues found" in output
    assert "4 passed" in output
    assert '"trained"' in output
    run_folder = project / "trainer" / "training_output" / "v1"
    models = json.loads((run_folder / "project.json").read_text())["models"]
    assert models.keys() == {"best", "last", "onnx", "pt2"}
    left = [*models.values(), "dataset.zip", "val_report.json", "test_report.json"]
    assert [name for name in left if not (run_folder / name).is_file()] == []

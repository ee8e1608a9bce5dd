"""Hyperparameters and source code in the folder of an experiment (A-65 to A-67)."""

import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from loopwright.tracking import HyperParamSourceReporter, with_source_paths


def reporter(tmp_path: Path) -> HyperParamSourceReporter:
    return HyperParamSourceReporter("project", "trial", "T", str(tmp_path))


def test_a65_one_line_per_hyperparameter(tmp_path: Path) -> None:
    given = {"lr": 0.001, "betas": (0.9, 0.999), "name": "two\nlines", "model": ModuleType}
    path = reporter(tmp_path).save_hyperparams_to_text_file(given)
    assert path == f"{tmp_path}/project/trial_T/hyperparams_list.txt"
    assert Path(path).read_text().splitlines() == [
        "lr:\t0.001",
        "betas:\t(0.9, 0.999)",
        "name:\ttwo\\nlines",
        "model:\tbuiltins.module",
    ]
    reporter(tmp_path).save_hyperparams_to_text_file(given, sort_names=True)
    assert Path(path).read_text().startswith("betas:")


def test_secrets_do_not_reach_the_table(tmp_path: Path) -> None:
    given = {
        "api_key": "hush",
        "num_tokens": 7,
        "url": "s3://me:hush@host",
        "more": {"token": "hush"},
    }
    text = Path(reporter(tmp_path).save_hyperparams_to_text_file(given)).read_text()
    assert "hush" not in text
    assert "num_tokens:\t7\n" in text


def test_a66_the_experiments_file_is_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    path = reporter(tmp_path).save_experiment_python_file({"experiment_file_path": str(script)})
    assert path == f"{tmp_path}/project/trial_T/train.py"
    assert Path(path).read_text() == "print('hello')\n"
    assert reporter(tmp_path).save_experiment_python_file({"experiment_file_path": None}) is None
    assert "Set it in hyperparams, which a notebook has to" in capsys.readouterr().out


def test_a66_source_folders_are_zipped_without_what_is_hidden(tmp_path: Path) -> None:
    for file in ("code/a.py", "code/deep/b.py", "code/.env", "code/__pycache__/a.pyc", "more/c.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    folders = [str(tmp_path / "code"), f"{tmp_path}/more/"]
    path = reporter(tmp_path).save_experiment_source_files({"source_dirs_paths": folders})
    assert path == f"{tmp_path}/project/trial_T/source_code.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["code/a.py", "code/deep/b.py", "more/c.py"]
        assert archive.read("more/c.py") == b"more/c.py"
    assert reporter(tmp_path).save_experiment_source_files({}) is None


def test_source_folders_have_to_be_there_and_differ(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source_dirs names"):
        reporter(tmp_path).save_experiment_source_files({"source_dirs_paths": [tmp_path / "no"]})
    (tmp_path / "a/code").mkdir(parents=True)
    (tmp_path / "b/code").mkdir(parents=True)
    with pytest.raises(ValueError, match="folders of one name: code, code"):
        reporter(tmp_path).save_experiment_source_files(
            {"source_dirs_paths": [tmp_path / "a/code", tmp_path / "b/code"]}
        )


def test_a67_the_callers_dict_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "train.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    given = {"lr": 0.1}
    assert with_source_paths(given, ["src"]) == {
        "experiment_file_path": str(tmp_path / "train.py"),
        "source_dirs_paths": ("src",),
        "lr": 0.1,
    }
    assert given == {"lr": 0.1}
    assert (
        with_source_paths({"experiment_file_path": "mine.py"})["experiment_file_path"] == "mine.py"
    )
    del main.__file__
    assert with_source_paths({})["experiment_file_path"] is None

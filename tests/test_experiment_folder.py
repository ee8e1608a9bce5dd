"""Where the files of an experiment lie (A-60 to A-62), and when it began (A-46)."""

import re
from pathlib import Path

import pytest

from loopwright.tracking import ExperimentFolder, new_timestamp


def test_a60_to_a62_the_folders_of_an_experiment(tmp_path: Path) -> None:
    folder = ExperimentFolder("project", "trial", "2026-01-02_03-04-05", tmp_path)
    root = tmp_path / "project" / "trial_2026-01-02_03-04-05"
    assert folder.path == root
    assert folder.checkpoints == root / "checkpoint_model"
    assert folder.model == root / "model"
    assert folder.results == root / "results"
    assert (
        folder.relative(folder.model / "a.pth") == "project/trial_2026-01-02_03-04-05/model/a.pth"
    )
    assert not list(tmp_path.iterdir()), "naming a folder makes none (A-68)"


def test_a25_a_leading_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ExperimentFolder("p", "e", "T", "~/runs").project == tmp_path / "runs" / "p"


def test_the_documented_functions_name_and_make_the_folders(tmp_path: Path) -> None:
    where = "p", "e", "T", str(tmp_path)
    paths = ExperimentFolder.get_base_folder_paths(*where)
    assert paths == (f"{tmp_path}/p", f"{tmp_path}/p/e_T")
    assert not Path(paths[1]).exists()
    assert ExperimentFolder.create_base_folder(*where) == paths[1]
    assert Path(paths[1]).is_dir()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b"])
def test_names_do_not_lead_out_of_the_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="experiment_name is"):
        ExperimentFolder("p", name, "T", tmp_path)


def test_a46_the_form_of_timestamps() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", new_timestamp())

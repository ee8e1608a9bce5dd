"""Tests of the run folder: what it holds, what it refuses, and that its files are always whole."""

import json
import math
import os
import stat
from pathlib import Path

import pytest
import torch

from loopwright import run_folder
from loopwright.environment import describe_environment
from loopwright.errors import RunFolderError
from loopwright.plain_values import mask_secrets, to_plain
from loopwright.run_folder import RunFolder, new_run_path, to_yaml
from loopwright.run_record import read_run

RESULTS = {"metrics": {"train_loss_epoch": 0.5}, "steps": 4, "seconds": 1.5}


def finished_run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.write_config({"model": {"type": "mlp"}})
    folder.start({"num_epochs": 2})
    folder.log(1, 2, {"train_loss_epoch": 1.0})
    folder.log(2, 4, {"train_loss_epoch": 0.5})
    folder.finish(RESULTS)
    return folder


def test_a_finished_run_reads_back(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.status["status"] == "finished"
    assert (run.status["epoch"], run.status["step"]) == (2, 4)
    assert run.results == RESULTS
    assert run.trainer == {"num_epochs": 2}
    assert run.config == "model:\n  type: mlp\n"
    assert run.curves() == {"train_loss_epoch": [(1, 1.0), (2, 0.5)]}
    assert run.environment["versions"]["torch"] == torch.__version__


def test_a_run_holds_the_documented_files_and_nothing_aside(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml",
        "trainer.json",
        "environment.json",
        "status.json",
        "metrics.jsonl",
        "results.json",
        "report.html",
    }


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_folder_is_private_to_its_owner(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(new_run_path(tmp_path, "x").stat().st_mode) == 0o700


def test_a_line_of_the_log_is_there_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start({})
    folder.log(1, 2, {"a": torch.tensor(0.5)}, event="evaluation")
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row.pop("time") > 0
    assert row == {"epoch": 1, "step": 2, "metrics": {"a": 0.5}, "event": "evaluation"}


def test_a_torn_last_line_is_tolerated_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start({})
    folder.log(1, 2, {"a": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1, "epoch": 2, "st')
    assert [row.epoch for row in read_run(tmp_path).metrics] == [1]
    resumed = RunFolder(tmp_path, resume=True)
    resumed.start({})
    resumed.log(2, 4, {"a": 0.5})
    run = read_run(tmp_path)
    assert [row.epoch for row in run.metrics] == [1, 2]
    assert run.unreadable_lines == 1


def test_numbers_that_are_not_finite_survive_as_valid_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start({})
    folder.log(1, 1, {"a": math.nan, "b": -math.inf})
    folder.finish({"metrics": {"a": math.nan}})

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    for name in ("metrics.jsonl", "results.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)
    (row,) = read_run(tmp_path).metrics
    assert math.isnan(row.metrics["a"])
    assert row.metrics["b"] == -math.inf


def test_a_metric_that_is_no_number_leaves_the_others_readable(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start({})
    folder.log(1, 1, {"confusion": [[1, 2], [3, 4]], "a": 1.0})  # type: ignore[dict-item]
    (row,) = read_run(tmp_path).metrics
    assert row.metrics == {"a": 1.0}


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="not empty and holds no run"):
        RunFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_is_never_overwritten(tmp_path: Path, resume: bool) -> None:
    finished_run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunFolderError, match="holds a finished run"):
        RunFolder(tmp_path, resume=resume)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("end", ["failed", "stopped", "running"])
def test_a_run_with_progress_is_taken_up_only_on_purpose(tmp_path: Path, end: str) -> None:
    folder = RunFolder(tmp_path)
    folder.start({})
    folder.log(1, 1, {"a": 1.0})
    if end != "running":
        (folder.fail if end == "failed" else folder.stop)("why")
        assert read_run(tmp_path).status["message"] == "why"
        assert "why" in (tmp_path / "report.html").read_text()
    with pytest.raises(RunFolderError, match=f"a run that is {end}"):
        RunFolder(tmp_path)
    assert RunFolder(tmp_path, resume=True).path == tmp_path


def test_a_prepared_folder_is_taken_by_the_trainer(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config({"a": 1})
    folder = RunFolder(tmp_path)
    folder.start({"b": 2})
    assert (tmp_path / "config.yaml").read_text() == "a: 1\n"


def test_without_a_declared_configuration_the_trainer_s_own_is_kept(tmp_path: Path) -> None:
    RunFolder(tmp_path).start({"num_epochs": 2})
    assert (tmp_path / "config.yaml").read_text() == "trainer:\n  num_epochs: 2\n"


def test_a_path_through_a_file_gives_one_readable_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match="cannot write the run folder"):
            RunFolder(path)
    with pytest.raises(RunFolderError, match="cannot write the run folder"):
        new_run_path(tmp_path / "file", "x")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_gives_one_readable_message(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="permission denied"):
        RunFolder(tmp_path / "run")


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished_run(tmp_path)

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunFolderError, match="No space left"):
        folder.add_metrics({"test_loss": 1.0})
    assert read_run(tmp_path).results == RESULTS
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_a_line_that_could_not_be_written_waits_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    path = folder.path / "metrics.jsonl"
    folder.log(1, 10, {"loss": 1.0})

    def full(path: Path, line: str) -> None:
        with path.open("a") as file:
            file.write(line[:10])
        raise RunFolderError("cannot write: No space left on device")

    before = path.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "_append_line", full)
        for epoch in (2, 3):
            with pytest.raises(RunFolderError, match="No space left"):
                folder.log(epoch, 10 * epoch, {"loss": 0.5})
        assert path.read_text() == before
        with pytest.raises(RunFolderError, match="No space left"):
            folder.finish({"metrics": {}})
        assert read_run(folder.path).status["status"] != "finished"
    folder.finish({"metrics": {}})
    assert [row.epoch for row in read_run(folder.path).metrics] == [1, 2, 3]


def test_metrics_are_added_to_the_results_and_the_report(tmp_path: Path) -> None:
    finished_run(tmp_path).add_metrics({"test_accuracy": 0.987})
    assert read_run(tmp_path).results["metrics"] == {
        "train_loss_epoch": 0.5,
        "test_accuracy": 0.987,
    }
    assert "0.987" in (tmp_path / "report.html").read_text()


def test_new_run_paths_are_never_shared(tmp_path: Path) -> None:
    paths = {new_run_path(tmp_path / "runs", "digits") for _ in range(20)}
    assert len(paths) == 20
    assert all(path.is_dir() and path.name.startswith("digits-") for path in paths)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_status_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    if content:
        with pytest.raises(RunFolderError, match=r"status\.json is damaged"):
            read_run(tmp_path)
    else:
        assert read_run(tmp_path).status == {}


def test_reading_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no run folder"):
        read_run(tmp_path)


def test_secrets_are_masked_in_what_is_stored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config({"trackers": [{"type": "comet_ml", "api_key": "hunter2-a"}]})
    folder.start({"HF_TOKEN": "hunter2-b", "url": "https://me:hunter2-c@host/x"})
    stored = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert "hunter2" not in stored
    assert stored.count("***") == 3


def test_what_only_sounds_secret_is_kept() -> None:
    values = {"num_tokens": 5, "key_dim": 64, "tokenizer": "bpe", "api_key": None, "seed": 1}
    assert mask_secrets(values) == values
    assert mask_secrets({"password": {"a": ["x"]}}) == {"password": {"a": ["***"]}}


def test_objects_become_names_and_never_memory_addresses() -> None:
    plain = to_plain({"loss": torch.nn.ReLU(), "type": torch.float32, 1: {2, 1}, "p": Path("a/b")})
    assert plain["loss"] == "torch.nn.modules.activation.ReLU"
    assert plain["1"] == [1, 2]
    assert plain["p"] == "a/b"
    assert "0x" not in json.dumps(plain)


def test_yaml_reads_back_as_what_was_written() -> None:
    yaml = pytest.importorskip("yaml")
    value = {
        "a": [{"b": 1e-05, "c": [[1, 2.5], []]}, {}, "on", "1e3", "null", "x: y", "", "é\n"],
        "on": {"x y": None, "t": True, "f": 1.5e300, "i": -3, "d": "2020-01-01", "n": "0x1f"},
        "": {"nested": {"deep": [["a"], {"b": [{"c": "d"}]}]}},
    }
    assert yaml.safe_load(to_yaml(value)) == value


def test_the_environment_is_plain_json() -> None:
    environment = describe_environment()
    assert json.loads(json.dumps(environment)) == environment
    assert environment["cpu"]["cores"] >= 1

"""What a run writes is its owner's alone to read, and holds no secret that it was given."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("yaml")

from tiny import tiny_data, tiny_trainer  # noqa: E402

from loopwright.checkpoint_policy import CheckpointPolicy  # noqa: E402
from loopwright.cli import main  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402

SECRET = "hunter2"

NOTIFY = f"""\
from loopwright.events import TrainerCallback

class Notify(TrainerCallback):
    def __init__(self, api_token, url, fails=False):
        assert api_token == "{SECRET}" and "{SECRET}" in url
        self.url, self.fails = url, fails

    def on_train_epoch_end(self, trainer, **kwargs):
        if self.fails:
            raise ConnectionError(f"no answer from {{self.url}}")
"""

URL = f"https://me:{SECRET}@example.org/hook"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start in an empty folder with a callback that takes secrets, and everything readable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "notify", raising=False)
    (tmp_path / "notify.py").write_text(NOTIFY)
    before = os.umask(0)
    yield
    os.umask(before)


def declared(**more: Any) -> dict[str, Any]:
    notify = {"type": "notify:Notify", "api_token": SECRET, "url": URL, **more}
    return {
        "dataset": {"dataset": {"type": "iris"}, "samples": {"train": 0.7}},
        "model": {"model": {"type": "mlp", "hidden": [4]}, "training": {"batch_size": 64}},
        "run": {
            "folder": "run",
            "threads": 1,
            "callbacks": [notify],
            "checkpoint": {"every_steps": 1},
        },
    }


def check(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"config.yaml", "status.json", "report.html"} <= {path.name for path in files}
    assert any(path.suffix == ".safetensors" for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    for path in (folder, *(folder / "checkpoints").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_a_declared_run(capsys: pytest.CaptureFixture[str]) -> None:
    Experiment.from_dict(declared()).train()
    check(Path("run"))
    assert "***" in Path("run/config.yaml").read_text()
    assert SECRET not in capsys.readouterr().out


def test_a_declared_run_that_fails_with_a_secret_in_its_message() -> None:
    with pytest.raises(ConnectionError):
        Experiment.from_dict(declared(fails=True)).train()
    check(Path("run"))
    assert "me:***@example.org" in Path("run/status.json").read_text()


def test_a_run_of_a_trainer(tmp_path: Path) -> None:
    trainer = tiny_trainer(run_dir="run", checkpoint=CheckpointPolicy(every_steps=1))
    options = {"num_workers": 0, "multiprocessing_context": None}
    trainer.train(tiny_data(), 1, train_dataloader_kwargs=options)
    check(Path("run"))
    trainer.save_training_state("elsewhere")
    assert stat.S_IMODE(Path("elsewhere").stat().st_mode) == 0o700


def test_the_command_line_says_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("stop.py").write_text(
        "import os, signal\nfrom loopwright.events import TrainerCallback\n"
        "class Stop(TrainerCallback):\n"
        "    def __init__(self, api_token=''): pass\n"
        "    def on_train_step_end(self, trainer, **kwargs): os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    config = (
        "dataset: {dataset: {type: iris}}\nmodel: {model: {type: mlp, hidden: [4]}}\n"
        "run: {threads: 1, callbacks: [{type: PART}]}\n"
    )
    Path("stop.yaml").write_text(config.replace("PART", "'stop:Stop'"))
    notify = f"'notify:Notify', fails: true, api_token: {SECRET}, url: '{URL}'"
    Path("fails.yaml").write_text(config.replace("PART", notify))
    for words, code in (
        (["stop.yaml", "--set", f"run.callbacks[0].api_token={SECRET}"], 75),
        (["stop.yaml", "--set", f"model.api_key={SECRET}"], 2),
        (["fails.yaml"], 1),
    ):
        monkeypatch.setattr(sys, "argv", ["loopwright", "train", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        assert "***" in captured.err

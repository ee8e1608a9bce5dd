"""Tests of the command line: exit codes, messages, and whole programs run for real."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("pydantic")
pytest.importorskip("yaml")
pytest.importorskip("sklearn")

import torch  # noqa: E402

from loopwright.cli import main  # noqa: E402
from loopwright.run_record import read_run  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"
SOURCE = Path(__file__).parents[1] / "src"

CONFIG = """\
dataset:
  dataset: {type: iris}
  samples: {train: 0.6, validation: 0.2, test: 0.2}
  preprocessors: [{type: standard_scaler}]
model:
  model: {type: mlp, hidden: [8]}
  training:
    epochs: 2
    optimizer: {type: adam, lr: 1e-2}
    schedule: {type: cosine}
    loss: cross_entropy
run: {seed: 1, threads: 1}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "iris.yaml"
    path.write_text(CONFIG)
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["loopwright", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def start(*arguments: object, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "loopwright", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_train_leaves_a_run_folder_and_says_where(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train", config) == 0
    out, err = capsys.readouterr()
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"iris-\d{8}-\d{6}", folder.name)
    fingerprint = read_run(folder).results["fingerprint"]
    words_told = ("test loss", "test accuracy", "samples/s", str(folder), "report.html")
    for words in (*words_told, f"weights {fingerprint}"):
        assert words in " ".join(out.split()), words
    assert "epoch 2/2  train loss" in err
    run = read_run(folder)
    assert run.status["status"] == "finished"
    assert "lr: 0.01" in run.config


def test_options_and_overrides_reach_the_run(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--set", "model.training.epochs=1", "--set", "model.model.hidden=[3, 3]"]
    options = ["--seed", 9, "--device", "cpu", "--folder", "mine"]
    assert call(monkeypatch, "train", config, *arguments, *options) == 0
    run = read_run("mine")
    assert run.results["epochs"] == 1
    assert run.results["parameters"] == 4 * 3 + 3 + 3 * 3 + 3 + 3 * 3 + 3
    assert "seed: 9" in run.config


MUTATIONS = [
    # wrong names
    ("model.training.epoch=3", "model.training.epoch", "epochs"),
    ("models={}", "models", "model"),
    ("dataset.sampels={}", "dataset.sampels", "samples"),
    ("dataset.samples.trian=0.5", "dataset.samples.trian", "train"),
    ("dataset.dataset.type=irris", "dataset.dataset.type", "iris"),
    ("dataset.dataset.size=3", "dataset.dataset.size", None),
    ("dataset.preprocessors=[standardscaler]", "dataset.preprocessors[0]", "standard_scaler"),
    ("model.model.type=mpl", "model.model.type", "mlp"),
    ("model.model.hiden=[1]", "model.model.hiden", "hidden"),
    ("model.model.type=nowhere_at_all:Net", "model.model.type", None),
    ("model.model.type=torch.nn:Liner", "model.model.type", "torch.nn:Linear"),
    ("model.training.optimizer.type=adamm", "model.training.optimizer.type", "adam"),
    ("model.training.optimizer.learning_rat=1", "model.training.optimizer.learning_rat", None),
    ("model.training.schedule.type=cosin", "model.training.schedule.type", "cosine"),
    ("model.training.loss=cros_entropy", "model.training.loss", "cross_entropy"),
    ("run.callbacks=[early_stoping]", "run.callbacks[0]", "early_stopping"),
    ("tracking.tag={}", "tracking.tag", "tags"),
    # wrong types
    ("model.training.epochs=three", "model.training.epochs", None),
    ("model.training.epochs=true", "model.training.epochs", None),
    ("model.training.epochs=2.5", "model.training.epochs", None),
    ('model.training.epochs="3"', "model.training.epochs", None),
    ("model.training.optimizer.lr=fast", "model.training.optimizer.lr", None),
    ("model.training.optimizer.betas=[0.9]", "model.training.optimizer.betas[1]", None),
    ("model.training.optimizer=[adam]", "model.training.optimizer", None),
    ("model.training.metrics=accuracy", "model.training.metrics", None),
    ("model.model.hidden=8", "model.model.hidden", None),
    ("model.model.hidden=[8, wide]", "model.model.hidden[1]", None),
    ("dataset.shuffle=maybe", "dataset.shuffle", None),
    ("dataset.samples=0.8", "dataset.samples", None),
    ("dataset=iris", "dataset", None),
    ("model=null", "model", None),
    ("run.seed=1.5", "run.seed", None),
    ("tracking.tags=[a]", "tracking.tags", None),
    # wrong ranges
    ("model.training.epochs=0", "model.training.epochs", None),
    ("model.training.batch_size=-8", "model.training.batch_size", None),
    ("model.training.batch_size=.nan", "model.training.batch_size", None),
    ("model.training.optimizer.lr=-1", "model.training.optimizer", None),
    ("model.training.schedule.num_warmup_epochs=9", "model.training.schedule", None),
    ("model.model.dropout=1.5", "model.model", None),
    ("model.model.hidden=[0]", "model.model", None),
    ("dataset.samples.train=0.9", "dataset.samples", None),
    ("dataset.samples.train=1000", "dataset.samples", None),
    ("dataset.samples.train=-0.5", "dataset.samples.train", None),
    ("dataset.seed=-1", "dataset.seed", None),
    ("run.precision=fp8", "run.precision", None),
    ("run.device=abacus", "run.device", None),
    ("run.name=../up", "run.name", None),
    ("run.checkpoint={every_step: 10}", "run.checkpoint.every_step", "every_steps"),
    ("run.checkpoint=10", "run.checkpoint", None),
    ("run.checkpoint.every_steps=often", "run.checkpoint.every_steps", None),
    ("run.checkpoint.every_steps=0", "run.checkpoint.every_steps", None),
    ("run.checkpoint.every_minutes=-1", "run.checkpoint.every_minutes", None),
    ("run.checkpoint.every_epochs=1.5", "run.checkpoint.every_epochs", None),
    ("run.checkpoint.keep_latest=0", "run.checkpoint.keep_latest", None),
    ("run.checkpoint.keep_best=-1", "run.checkpoint.keep_best", None),
    ("run.checkpoint.greater_is_better=1", "run.checkpoint.greater_is_better", None),
    # parts that do not fit together
    ("model.model={type: cnn}", "model.model", None),
    ("dataset.dataset.type=diabetes", "model.training.loss", None),
    ("model.training.loss=mean_squared_error", "model", None),
    ("model.model={type: torch.nn:Identity}", "model", None),
    ("run.callbacks=[{type: early_stopping, watch_metric: acc}]", "run.callbacks[0].watch", None),
    ("run.checkpoint.watch=acuracy", "run.checkpoint.watch", "accuracy"),
    ("run.step_mode=captured", "run.step_mode", None),
    ("tracking.trackers=[mlfow]", "tracking.trackers[0]", "mlflow"),
    ("tracking.trackers=mlflow", "tracking.trackers", None),
    ("tracking.trackers=[{type: history, folder: x}]", "tracking.trackers[0].folder", None),
    ("dataset.data_augmentors=[flipp]", "dataset.data_augmentors[0]", "flip"),
    ("dataset.data_augmentors=[flip]", "dataset.data_augmentors[0].probability", None),
    ("dataset.chunk_size=0", "dataset.chunk_size", None),
    # overrides that are none
    ("epochs", "epochs", None),
    ("model.training.epochs.more=1", "model.training.epochs.more", None),
    ("model.training.metrics[4]=accuracy", "model.training.metrics", None),
    ("model.training.epochs=[", "model.training.epochs", None),
    ("=3", "=3", None),
]


@pytest.mark.parametrize(("mutation", "path", "suggestion"), MUTATIONS)
def test_a_mutated_configuration_gives_a_pointed_message(
    mutation: str,
    path: str,
    suggestion: str | None,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "train", config, "--set", mutation) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert path in err
    if suggestion:
        assert f'Did you mean "{suggestion}"?' in err
    assert not Path("runs").exists()


BAD_FILES = [
    ("", "dataset: expected a value"),
    ("[1, 2]", "expected a mapping"),
    ("just words", "expected a mapping"),
    ("a: [", "no valid YAML"),
    ("a: 1\na: 2\n", "this key stands twice"),
    ("a: !!python/object/apply:os.system ['true']", "no valid YAML"),
    ("a: &x [*x]", "unfolds to too many values"),
    ("\x00", "no valid YAML"),
    (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n"
            for a, b in zip("abcdef", "bcdefg", strict=True)
        ),
        "unfolds to too many values",
    ),
    (
        CONFIG.replace("epochs: 2", "epochs: 2\n    2: 3"),
        "model.training.2: expected text as the key",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_file_gives_one_message(
    text: str,
    message: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config.write_text(text)
    assert call(monkeypatch, "train", config) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_missing_file_a_folder_and_bytes_give_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for path, words in (
        ("none.yaml", "There is no file none.yaml"),
        (".", "Cannot read"),
        ("bytes.yaml", "no text in UTF-8"),
    ):
        assert call(monkeypatch, "train", path) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_a_folder_that_cannot_be_used_is_told_before_the_run(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    Path("full").mkdir()
    Path("full", "thesis.txt").write_text("")
    for folder, words in (("file/run", "cannot write"), ("full", "not empty and holds no run")):
        assert call(monkeypatch, "train", config, "--folder", folder) == 2
        err = capsys.readouterr().err
        assert words in err
        assert "--folder: run.folder: " in err
        assert err.count("\n") == 2


def test_mistakes_in_values_folder_and_trackers_are_told_at_once(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So are shapes that do not fit, tried on a batch as the data are described."""
    Path("file").write_text("")
    arguments = ["--folder", "file/run", "--set", "run.checkpoint.watch=acuracy"]
    arguments += ["--set", "model.training.loss=mean_squared_error"]
    arguments += ["--set", "model.training.optimizer.lr=-1"]
    arguments += ["--set", "tracking.trackers=[{type: 'json:loads', s: ''}]"]
    assert call(monkeypatch, "train", config, *arguments) == 2
    err = capsys.readouterr().err
    assert "iris.yaml holds 5 mistakes" in err
    for words in (
        "run.folder: cannot write the run folder file/run: a part of this path is a file",
        "run.checkpoint.watch: expected a metric of this run",
        "model: a batch of the data does not go through model and loss",
        "model.training.optimizer: Invalid learning rate: -1",
        "tracking.trackers[0]: Expecting value",
    ):
        assert words in err


def test_a_finished_run_is_not_overwritten(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "train", config, "--folder", "mine") == 0
    results = Path("mine/results.json").read_bytes()
    assert call(monkeypatch, "train", config, "--folder", "mine") == 2
    assert Path("mine/results.json").read_bytes() == results


def test_debug_shows_the_traceback(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train", "none.yaml", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_run_that_fails_exits_with_1(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", "model.training.optimizer={type: sgd, lr: 1e30}", "--folder", "mine"]
    arguments += ["--set", "model.training.schedule=null"]
    assert call(monkeypatch, "train", config, *arguments) == 1
    err = capsys.readouterr().err
    assert "DivergedError" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["train"], ["tarin"], ["train", "a", "b"], ["train", "a", "--seed", "x"], ["--x"]]
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert "Usage: loopwright" in err
    assert "Traceback" not in err


def test_help_and_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    assert "train" in capsys.readouterr().out
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("loopwright ")


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml", "pydantic"])
def test_a_missing_extra_names_the_command_that_installs_it(
    missing: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        f"sys.argv = ['loopwright', 'train', {str(config)!r}]\n"
        "from loopwright.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [
        f"{missing!r} is needed here and is not installed. "
        'Install it with: pip install "loopwright[cli]"'
    ]


@pytest.mark.system
def test_the_program_trains(config: Path) -> None:
    process = start("train", config, folder=config.parent)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "test accuracy" in out


@pytest.mark.system
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_exits_with_130_and_the_folder_says_stopped(config: Path) -> None:
    process = start(
        "train", config, "--set", "model.training.epochs=1000000", "--folder", "x",
        folder=config.parent,
    )  # fmt: skip
    log = config.parent / "x" / "metrics.jsonl"
    for _ in range(1200):
        if log.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    run = read_run(config.parent / "x")
    assert run.status["status"] == "stopped"
    assert run.unreadable_lines == 0


@pytest.mark.system
def test_the_demo_s_configuration_runs_on_a_slice(tmp_path: Path) -> None:
    process = start("train", EXAMPLE, "--set", "model.training.epochs=2", folder=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "epoch 2/2" in err
    assert torch.__version__ in next(tmp_path.glob("runs/*/report.html")).read_text()

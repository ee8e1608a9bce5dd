"""Signals that end a run: who handles them when, and what the caller is told."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import MapData, same, tiny_data, tiny_trainer, weights

from loopwright.callbacks import EarlyStoppingCallback, ModelEmaCallback, SaveBestModelCallback
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.ends import StopRequests
from loopwright.errors import CheckpointError, LoopwrightError, RunInterrupted
from loopwright.events import TrainerCallback

SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT]


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


class Ask(TrainerCallback):
    """Sends this process signals at the end of a step, and looks at the handlers."""

    def __init__(self, step: int, *numbers: int) -> None:
        self.step, self.numbers, self.seen = step, numbers, []

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        self.seen = handlers()
        if trainer.progress.step + 1 == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def train(trainer: Any, **options: Any) -> Any:
    trainer.train(tiny_data(), 3, tiny_data(6), per_device_batch_size=4, **options)
    return trainer


@pytest.mark.parametrize("number", SIGNALS[:3])
def test_a_run_that_is_asked_to_stop_saves_and_says_so(number: int, tmp_path: Path) -> None:
    before, ask = handlers(), Ask(5, number)
    trainer = tiny_trainer(callbacks=[ask], run_dir=tmp_path / "run")
    with pytest.raises(RunInterrupted) as caught:
        train(trainer)
    assert caught.value.signal == signal.Signals(number).name
    assert caught.value.checkpoint == tmp_path / "run" / "checkpoints" / "step-00000005"
    assert caught.value.checkpoint.is_dir()
    assert isinstance(caught.value, LoopwrightError)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "stopped"
    assert not any(handler in before for handler in ask.seen)
    assert handlers() == before
    again = train(tiny_trainer(run_dir=tmp_path / "run"), resume="latest")
    assert same(weights(again), weights(train(tiny_trainer())))


class AskAtTheEnd(TrainerCallback):
    def on_training_run_end(self, trainer: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_after_the_last_epoch_lets_the_run_finish_and_is_told(tmp_path: Path) -> None:
    trainer = tiny_trainer(callbacks=[AskAtTheEnd], run_dir=tmp_path / "run")
    with pytest.raises(RunInterrupted, match="step-00000009"):
        train(trainer)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"
    again = train(tiny_trainer(run_dir=tmp_path / "run"), resume="latest")
    assert same(weights(again), weights(train(tiny_trainer())))


def test_sigint_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    trainer = tiny_trainer(callbacks=[Ask(2, signal.SIGINT)], run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt, match="step-00000002"):
        train(trainer)
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000002"]


def test_a_second_sigint_ends_at_once(tmp_path: Path) -> None:
    before = handlers()
    twice = Ask(2, signal.SIGINT, signal.SIGINT)
    trainer = tiny_trainer(callbacks=[twice], run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(trainer)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert handlers() == before


def test_without_a_folder_nothing_is_handled_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, ask = handlers(), Ask(3)
    train(tiny_trainer(callbacks=[ask]))
    assert ask.seen == before
    assert os.listdir(tmp_path) == []


def test_handlers_are_put_back_after_an_end_and_an_error(tmp_path: Path) -> None:
    mine = signal.signal(signal.SIGUSR1, lambda *arguments: None)
    try:
        before = handlers()
        train(tiny_trainer(run_dir=tmp_path / "run"))
        assert handlers() == before
        trainer = tiny_trainer(run_dir=tmp_path / "other")
        trainer.loss_func = None
        with pytest.raises(ValueError, match="loss_func"):
            train(trainer)
        assert handlers() == before
    finally:
        signal.signal(signal.SIGUSR1, mine)


def test_another_thread_handles_nothing(tmp_path: Path) -> None:
    before, ask = handlers(), Ask(3)
    trainer = tiny_trainer(callbacks=[ask], run_dir=tmp_path / "run")
    trainer._keeper.requests.signal = signal.SIGTERM  # of a run before
    thread = threading.Thread(target=train, args=(trainer,))
    thread.start()
    thread.join(60)
    assert ask.seen == before
    assert trainer.progress.step == 9


def test_what_is_ignored_stays_ignored() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        requests = StopRequests()
        with requests.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert requests.signal is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert requests.signal is signal.SIGUSR1
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, earlier)


# ------------------------------------------------------------------------------- going on


def test_a_finished_run_says_so_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = train(tiny_trainer(run_dir=tmp_path / "run"))
    ask = Ask(0)
    again = train(tiny_trainer(callbacks=[ask], run_dir=tmp_path / "run"), resume="latest")
    assert "is finished: nothing to resume" in capsys.readouterr().out
    assert ask.seen == []
    assert same(weights(done), weights(again))
    assert again.run_history.get_metric_values("eval_loss_epoch") == (
        done.run_history.get_metric_values("eval_loss_epoch")
    )


def interrupted(folder: Path, *callbacks: TrainerCallback, step: int = 5) -> None:
    trainer = tiny_trainer(callbacks=[*callbacks, Ask(step, signal.SIGTERM)], run_dir=folder)
    with pytest.raises(RunInterrupted):
        train(trainer)


def test_other_settings_are_refused_unless_allowed(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    options = {"gradient_clip_norm": 1.0, "resume": "latest"}
    with pytest.raises(CheckpointError, match=r"gradient_accumulation_steps: 1 then, 2 now"):
        train(
            tiny_trainer(run_dir=tmp_path / "run"), gradient_accumulation_steps=2, resume="latest"
        )
    trainer = train(tiny_trainer(run_dir=tmp_path / "run"), allow_changes=True, **options)
    assert trainer.progress.step == 9


def test_the_log_of_metrics_goes_on_as_one(tmp_path: Path) -> None:
    def log_of(folder: Path) -> list[Any]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [(line["epoch"], line["step"], line["metrics"]) for line in lines]

    train(tiny_trainer(run_dir=tmp_path / "whole"))
    interrupted(tmp_path / "run", step=8)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step": 9, "metrics": {"a": 1}}\n{"epo')
    train(tiny_trainer(run_dir=tmp_path / "run"), resume="latest")
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")


def test_callbacks_with_a_state_go_on(tmp_path: Path) -> None:
    def made(name: str) -> list[TrainerCallback]:
        return [
            EarlyStoppingCallback(early_stopping_patience=9, early_stopping_threshold=5.0),
            SaveBestModelCallback(tmp_path / name / "best.pt", load_saved_checkpoint=False),
            ModelEmaCallback(save_path=tmp_path / name / "ema.pt"),
        ]

    whole, first, second = made("whole"), made("run"), made("run")
    train(tiny_trainer(callbacks=whole))
    interrupted(tmp_path / "folder", *first, step=8)
    resumed = tiny_trainer(callbacks=second, run_dir=tmp_path / "folder")
    train(resumed, resume="latest")
    for expected, found in zip(whole, second, strict=True):
        states = [each.state_dict() for each in (expected, found)]  # type: ignore[attr-defined]
        averaged = [state.pop("averaged", {}) for state in states]
        assert states[0] == states[1]
        assert same(averaged[0].values(), averaged[1].values())
    interrupted(tmp_path / "next", *made("next"))
    with pytest.raises(CheckpointError, match="callbacks"):
        train(tiny_trainer(run_dir=tmp_path / "next"), resume="latest")


class Counts(TrainerCallback):
    """Counts steps, from a number of its own on."""

    def __init__(self, count: int) -> None:
        self.count = count

    def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_callbacks_of_one_name_keep_their_own_states(tmp_path: Path) -> None:
    other = type("Counts", (Counts,), {})  # as of another module
    interrupted(tmp_path / "run", Counts(0), other(100))
    first, second = Counts(0), other(0)
    train(tiny_trainer(callbacks=[first, second], run_dir=tmp_path / "run"), resume="latest")
    assert (first.count, second.count) == (9, 109)
    interrupted(tmp_path / "next", Counts(0), other(100))
    with pytest.raises(
        CheckpointError, match=r"\['Counts', 'Counts 2'\], and here is \['Counts'\]"
    ):
        train(tiny_trainer(callbacks=[Counts(0)], run_dir=tmp_path / "next"), resume="latest")


def test_damaged_checkpoints_are_no_reason_to_start_anew(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000005" / "state.json").write_text("{}")
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="Every checkpoint in"):
        train(tiny_trainer(run_dir=tmp_path / "run"), resume="latest")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == log


class StopInEvaluation(TrainerCallback):
    """Asks in the evaluation of the averaged model, which is inside that of the model."""

    def on_eval_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
        if trainer.run_history.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_evaluation_that_is_cut_short_leaves_no_metrics(tmp_path: Path) -> None:
    def made(name: str, *inner: TrainerCallback) -> list[TrainerCallback]:
        return [ModelEmaCallback(save_path=tmp_path / f"{name}.pt", callbacks=inner)]

    whole = train(tiny_trainer(callbacks=made("whole")))
    trainer = tiny_trainer(callbacks=made("run", StopInEvaluation()), run_dir=tmp_path / "run")
    with pytest.raises(RunInterrupted):
        train(trainer)
    assert len(trainer.run_history.get_metric_values("eval_loss_epoch")) == 1
    again = train(tiny_trainer(callbacks=made("run"), run_dir=tmp_path / "run"), resume="latest")
    for name in whole.run_history.get_metric_names():
        assert again.run_history.get_metric_values(name) == (
            whole.run_history.get_metric_values(name)
        )


class AskingData(MapData):
    """Asks at every sample of an epoch in turn, wherever the draws are being put back."""

    asks_after = -1

    def __getitem__(self, index: int) -> Any:
        self.asks_after -= 1
        if self.asks_after == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


@pytest.mark.parametrize("sample", [1, 6, 12, 20])
def test_leaving_while_a_batch_is_made_loses_nothing(sample: int, tmp_path: Path) -> None:
    def run(data: MapData, folder: Path, **options: Any) -> Any:
        trainer = tiny_trainer(run_dir=folder, checkpoint=CheckpointPolicy(every_steps=100))
        loader = {"num_workers": 0}
        trainer.train(data, 3, None, 4, train_dataloader_kwargs=loader, **options)
        return trainer

    whole = run(MapData(noise=True), tmp_path / "whole")
    data = AskingData(noise=True)
    data.asks_after = sample
    with pytest.raises(RunInterrupted) as caught:
        run(data, tmp_path / "run")
    assert caught.value.checkpoint.name == f"step-{(sample - 1) // 4:08d}"
    again = run(MapData(noise=True), tmp_path / "run", resume="latest")
    assert same(weights(again), weights(whole))

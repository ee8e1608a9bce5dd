"""The order of hooks and events, against the documented pseudo-code and the map of the loop."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from tiny import Stream, tiny_data, tiny_trainer

from loopwright import loop_map
from loopwright.callbacks import StepBasedEvaluationCallback
from loopwright.events import EVENTS, TrainerCallback
from loopwright.loop_map import Line
from loopwright.trainer import Trainer

LOADER_HOOKS = ("create_train_dataloader", "create_eval_dataloader")
PLAIN_HOOKS = (
    "create_scheduler",
    "training_run_start",
    "train_epoch_start",
    "optimizer_step",
    "scheduler_step",
    "optimizer_zero_grad",
    "train_epoch_end",
    "eval_epoch_start",
    "eval_epoch_end",
    "training_run_epoch_end",
    "training_run_end",
    "evaluation_run_start",
    "evaluation_run_end",
)
ARGUMENT_HOOKS = (
    "train_step",
    "calculate_train_batch_loss",
    "backward_step",
    "calculate_eval_batch_loss",
)


class RecordingTrainer(Trainer):
    """Writes down each hook and then does what it does by default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lines: list[str] = []
        super().__init__(*args, **kwargs)


def _recording(name: str) -> Any:
    def hook(self: RecordingTrainer, *args: Any, **kwargs: Any) -> Any:
        self.lines.append(name)
        return getattr(Trainer, name)(self, *args, **kwargs)

    return hook


for _name in (*LOADER_HOOKS, *PLAIN_HOOKS, *ARGUMENT_HOOKS):
    setattr(RecordingTrainer, _name, _recording(_name))


class RecordingCallback(TrainerCallback):
    """Writes down each event and its keywords."""

    def __init__(self) -> None:
        self.keywords: list[tuple[str, dict[str, Any]]] = []


def _hearing(name: str) -> Any:
    def event(self: RecordingCallback, trainer: Any, **kwargs: Any) -> None:
        trainer.lines.append(name)
        self.keywords.append((name, kwargs))

    return event


for _name in EVENTS:
    setattr(RecordingCallback, _name, _hearing(_name))


def evaluation(num_batches: int) -> list[str]:
    """P-35, P-36: the lines of an evaluation epoch as documented."""
    batch = ["on_eval_step_start", "calculate_eval_batch_loss", "on_eval_step_end"]
    return [
        "eval_epoch_start",
        "on_eval_epoch_start",
        *batch * num_batches,
        "eval_epoch_end",
        "on_eval_epoch_end",
    ]


def training_step(*, completes_update: bool) -> list[str]:
    """P-33: the lines of a micro-batch as documented."""
    update = ["optimizer_step", "scheduler_step", "optimizer_zero_grad"]
    return [
        "on_train_step_start",
        "calculate_train_batch_loss",
        "on_train_step_end",
        "backward_step",
        *(update if completes_update else []),
    ]


def training(
    epochs: int, updates: Sequence[bool], eval_batches: int | None, within: dict[int, int]
) -> list[str]:
    """P-31 to P-36: the lines of a training run as documented.

    `updates` tells for each micro-batch whether it completes an update; `within` maps a
    micro-batch to the batches of an evaluation that interrupts the epoch there.
    """
    lines = ["create_train_dataloader"]
    lines += [] if eval_batches is None else ["create_eval_dataloader"]
    lines += ["create_scheduler", "training_run_start", "on_training_run_start"]
    for _ in range(epochs):
        lines += ["train_epoch_start", "on_train_epoch_start"]
        for index, completes in enumerate(updates):
            step = training_step(completes_update=completes)
            inserted = evaluation(within[index]) if index in within else []
            lines += [step[0], *inserted, *step[1:]]
        lines += ["train_epoch_end", "on_train_epoch_end"]
        lines += [] if eval_batches is None else evaluation(eval_batches)
        lines += ["training_run_epoch_end", "on_training_run_epoch_end"]
    return [*lines, "training_run_end", "on_training_run_end"]


def recorded(trainer: Any) -> list[str]:
    """The lines that the documentation knows: all but `train_step`, which is ours."""
    assert trainer.lines[0] == "on_init_end"
    return [line for line in trainer.lines[1:] if line != "train_step"]


def constant(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ConstantLR(optimizer)


def new_trainer(*more: Any) -> Any:
    return tiny_trainer(RecordingTrainer, callbacks=[RecordingCallback, *more])


UPDATES = {  # five micro-batches in an epoch
    1: [True] * 5,
    2: [False, True, False, True, True],
    4: [False, False, False, True, True],
    8: [False, False, False, False, True],
}


@pytest.mark.parametrize("accumulation", [1, 2, 4, 8])
@pytest.mark.parametrize("with_eval", [True, False])
def test_training_follows_the_documented_order(accumulation: int, with_eval: bool) -> None:
    """P-31 to P-36, P-45, P-56: an update happens in the micro-batch that completes it."""
    trainer = new_trainer()
    trainer.train(
        tiny_data(10),
        2,
        tiny_data(7) if with_eval else None,
        per_device_batch_size=2,
        gradient_accumulation_steps=accumulation,
        create_scheduler_fn=constant,
    )
    assert recorded(trainer) == training(2, UPDATES[accumulation], 4 if with_eval else None, {})


def test_evaluation_follows_the_documented_order() -> None:
    """P-37."""
    trainer = new_trainer()
    trainer.evaluate(tiny_data(7), 3)
    assert recorded(trainer) == [
        "create_eval_dataloader",
        "evaluation_run_start",
        "on_evaluation_run_start",
        *evaluation(3),
        "evaluation_run_end",
        "on_evaluation_run_end",
    ]


@pytest.mark.parametrize(
    ("accumulation", "interrupted"), [(1, (2, 4)), (2, (4,)), (4, ())], ids=["1", "2", "4"]
)
def test_evaluation_within_an_epoch_follows_the_documented_order(
    accumulation: int, interrupted: tuple[int, ...]
) -> None:
    """P-100 counts updates: every second one is followed by an evaluation, between micro-batches.

    At the end of an epoch there is only the evaluation of the epoch.
    """
    trainer = new_trainer(StepBasedEvaluationCallback(2))
    trainer.train(
        tiny_data(10),
        2,
        tiny_data(7),
        per_device_batch_size=2,
        gradient_accumulation_steps=accumulation,
        create_scheduler_fn=constant,
    )
    within = dict.fromkeys(interrupted, 4)
    assert recorded(trainer) == training(2, UPDATES[accumulation], 4, within)


def test_an_update_of_data_of_unknown_length_is_completed_before_the_epoch_ends() -> None:
    trainer = new_trainer()
    trainer.train(Stream(7), 1, per_device_batch_size=2, gradient_accumulation_steps=3)
    update = ["optimizer_step", "scheduler_step", "optimizer_zero_grad"]
    lines = training(1, [False, False, True, False], None, {})
    place = lines.index("train_epoch_end")
    assert recorded(trainer) == [*lines[:place], *update, *lines[place:]]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_keywords_of_events(accumulation: int) -> None:
    """P-88: `step` counts micro-batches of the epoch; `is_intermediate` tells evaluations apart."""
    trainer = new_trainer(StepBasedEvaluationCallback(1))
    trainer.train(
        tiny_data(10),
        2,
        tiny_data(4),
        per_device_batch_size=2,
        gradient_accumulation_steps=accumulation,
    )
    (recorder, _) = trainer.callback_handler
    steps = [given["step"] for name, given in recorder.keywords if name == "on_train_step_end"]
    assert steps == [0, 1, 2, 3, 4] * 2
    for name in ("on_eval_epoch_start", "on_eval_epoch_end"):
        found = [given for event, given in recorder.keywords if event == name]
        within = 4 if accumulation == 1 else 1
        epoch = [{"is_intermediate": True}] * within + [{"is_intermediate": False}]
        assert found == epoch * 2
    for name, given in recorder.keywords:
        if name in ("on_train_step_end", "on_eval_step_end"):
            inputs, targets = given["batch"]
            assert given["batch_output"]["model_outputs"].shape == (len(inputs), 3)
            assert given["batch_output"]["batch_size"] == len(targets)


# ------------------------------------------------------------------ the map of the loop


def block(lines: Sequence[Line], start: int) -> int:
    """Return where the lines end that are deeper than the one at `start`."""
    end = start + 1
    while end < len(lines) and lines[end].depth > lines[start].depth:
        end += 1
    return end


def walk(lines: Sequence[Line], facts: dict[str, Any]) -> Iterator[str]:
    """Run the map: give its hooks and events in the order in which they would happen."""
    position = 0
    while position < len(lines):
        line, end = lines[position], block(lines, position)
        inner = lines[position + 1 : end]
        if line.kind != "control":
            if line.name != "create_eval_dataloader" or facts["eval"]:
                yield line.name
            yield from walk(inner, facts)
        else:
            for update in facts[line.name]:
                yield from walk(inner, facts | {"if the update is complete:": [0] * update})
        position = end


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("with_eval", [True, False])
def test_the_map_of_training_is_what_runs(accumulation: int, with_eval: bool) -> None:
    trainer = new_trainer()
    trainer.train(
        tiny_data(10),
        2,
        tiny_data(6) if with_eval else None,
        per_device_batch_size=2,
        gradient_accumulation_steps=accumulation,
    )
    facts = {
        "eval": with_eval,
        "for epoch in epochs:": [1, 1],
        "for batch in train_dl:": UPDATES[accumulation],
        "if there is an evaluation dataset:": [1] if with_eval else [],
        "for batch in eval_dl:": [1] * 3,
        "if StopTrainingError was raised:": [],
    }
    assert trainer.lines[1:] == list(walk(loop_map.TRAINING, facts))


def test_the_map_of_evaluation_is_what_runs() -> None:
    trainer = new_trainer()
    trainer.evaluate(tiny_data(6), 2)
    facts = {"eval": True, "for batch in eval_dl:": [1] * 3}
    assert trainer.lines[1:] == list(walk(loop_map.EVALUATION, facts))


def test_the_map_names_every_event_and_every_documented_hook() -> None:
    lines = (*loop_map.TRAINING, *loop_map.EVALUATION)
    assert {line.name for line in lines if line.kind == "event"} == set(EVENTS) - {"on_init_end"}
    hooks = {*LOADER_HOOKS, *PLAIN_HOOKS, *ARGUMENT_HOOKS}
    assert {line.name for line in lines if line.kind == "hook"} == hooks


def test_explain_prints_the_map_with_what_is_plugged_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Changed(RecordingTrainer):
        def backward_step(self, loss: torch.Tensor) -> None:
            super().backward_step(loss)

    class Second(TrainerCallback):
        def on_train_step_end(self, trainer: Any, **kwargs: Any) -> None: ...

    trainer = tiny_trainer(Changed, callbacks=[RecordingCallback, Second])
    trainer.explain()
    printed = capsys.readouterr().out.splitlines()
    names = [line.strip().split("(")[0] for line in printed]
    assert names == [line.name for line in loop_map.TRAINING]
    (backward,) = (line for line in printed if "backward_step" in line)
    assert "overridden in Changed" in backward
    (step_end,) = (line for line in printed if "on_train_step_end" in line)
    assert "RecordingCallback → Second" in step_end
    trainer.explain(evaluation=True)
    printed = capsys.readouterr().out.splitlines()
    assert [p.strip().split("(")[0] for p in printed] == [li.name for li in loop_map.EVALUATION]

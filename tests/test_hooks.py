"""The hooks on their page: those of the map, and none of them defined a second time."""

from loopwright.hooks import TrainerHooks
from loopwright.loop_map import EVALUATION, TRAINING
from loopwright.trainer import Trainer


def test_the_hooks_of_the_map_stand_on_one_page() -> None:
    named = {line.name for line in (*TRAINING, *EVALUATION) if line.kind == "hook"}
    assert named - vars(TrainerHooks).keys() == {"train_step"}


def test_the_trainer_has_the_hooks_as_they_stand_there() -> None:
    hooks = {name for name, value in vars(TrainerHooks).items() if callable(value)}
    assert "backward_step" in hooks
    assert not {name for name in hooks if name in vars(Trainer) and not name.startswith("__")}

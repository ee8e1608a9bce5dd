"""loopwright trains PyTorch models: one loop, exact and fast, whose every step can be overridden.

Names are resolved when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.checkpoint_policy import CheckpointPolicy as CheckpointPolicy
    from loopwright.errors import LoopwrightError as LoopwrightError
    from loopwright.errors import RunInterrupted as RunInterrupted
    from loopwright.events import StopTrainingError as StopTrainingError
    from loopwright.events import TrainerCallback as TrainerCallback
    from loopwright.experiment import Experiment as Experiment
    from loopwright.history import InMemoryRunHistory as InMemoryRunHistory
    from loopwright.history import RunHistory as RunHistory
    from loopwright.notebook import notebook_launcher as notebook_launcher
    from loopwright.run_config import TrainerRunConfig as TrainerRunConfig
    from loopwright.seed import set_seed as set_seed
    from loopwright.trainer import Trainer as Trainer
    from loopwright.trainer import TrainerPlaceholderValues as TrainerPlaceholderValues
    from loopwright.trainer import TrainerWithTimmScheduler as TrainerWithTimmScheduler
    from loopwright.trainloop import TrainLoop as TrainLoop
    from loopwright.trainloop import TrainLoopCheckpoint as TrainLoopCheckpoint
    from loopwright.trainloop import TrainLoopCheckpointEndSave as TrainLoopCheckpointEndSave
    from loopwright.trainloop import TrainLoopEndSave as TrainLoopEndSave
    from loopwright.trainloop import TTBasicModel as TTBasicModel
    from loopwright.trainloop import TTModel as TTModel
    from loopwright.weights_hash import fingerprint as fingerprint

__version__ = "0.1.0"

_HOMES = {
    "RunInterrupted": "errors",
    "CheckpointPolicy": "checkpoint_policy",
    "Experiment": "experiment",
    "InMemoryRunHistory": "history",
    "LoopwrightError": "errors",
    "RunHistory": "history",
    "StopTrainingError": "events",
    "TTBasicModel": "trainloop",
    "TTModel": "trainloop",
    "TrainLoop": "trainloop",
    "TrainLoopCheckpoint": "trainloop",
    "TrainLoopCheckpointEndSave": "trainloop",
    "TrainLoopEndSave": "trainloop",
    "Trainer": "trainer",
    "TrainerCallback": "events",
    "TrainerPlaceholderValues": "trainer",
    "TrainerRunConfig": "run_config",
    "TrainerWithTimmScheduler": "trainer",
    "fingerprint": "weights_hash",
    "notebook_launcher": "notebook",
    "set_seed": "seed",
}

__all__ = [
    "RunInterrupted",
    "CheckpointPolicy",
    "Experiment",
    "InMemoryRunHistory",
    "LoopwrightError",
    "RunHistory",
    "StopTrainingError",
    "TTBasicModel",
    "TTModel",
    "TrainLoop",
    "TrainLoopCheckpoint",
    "TrainLoopCheckpointEndSave",
    "TrainLoopEndSave",
    "Trainer",
    "TrainerCallback",
    "TrainerPlaceholderValues",
    "TrainerRunConfig",
    "TrainerWithTimmScheduler",
    "__version__",
    "fingerprint",
    "notebook_launcher",
    "set_seed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""The migration page: every old name has a new one that can be imported."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "migrating" / "pytorch-accelerated.md"
NAMES = re.findall(
    r"^\| `(pytorch_accelerated\.[\w.]+)` \| `(loopwright[\w.]*)` \|$", PAGE.read_text(), re.M
)


def test_the_page_lists_all_that_the_library_ships():
    listed = {old.rpartition(".")[2] for old, _ in NAMES}
    shipped = [
        "Trainer",
        "TrainerWithTimmScheduler",
        "TrainerPlaceholderValues",
        "TrainerRunConfig",
        "RunHistory",
        "InMemoryRunHistory",
        "LossTracker",
        "SchedulerBase",
        "StatefulSchedulerBase",
        "CosineLrScheduler",
        "WSDLrScheduler",
        "ModelFreezer",
        "ModelEma",
        "LimitBatches",
        "DataLoaderSlice",
        "remove_padding",
        "worker_init_fn",
        "local_process_zero_only",
        "local_process_zero_first",
        "world_process_zero_only",
        "notebook_launcher",
        "set_seed",
        "TrainerCallback",
        "CallbackHandler",
        "StopTrainingError",
    ]
    shipped += [
        f"{name}Callback"
        for name in [
            "MoveModulesToDevice",
            "TerminateOnNaN",
            "PrintProgress",
            "ProgressBar",
            "LogMetrics",
            "SaveBestModel",
            "EarlyStopping",
            "LimitBatches",
            "ModelEma",
            "ConvertSyncBatchNorm",
            "StepBasedEvaluation",
            "LimitEvalSteps",
            "SaveTrainingState",
            "WSDCheckpoint",
        ]
    ]
    assert set(shipped) <= listed


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_new_name_can_be_imported(old, new):
    try:
        importlib.import_module(new)
    except ModuleNotFoundError:
        home, _, name = new.rpartition(".")
        assert hasattr(importlib.import_module(home), name), f"{new} (formerly {old})"
        assert name == old.rpartition(".")[2]

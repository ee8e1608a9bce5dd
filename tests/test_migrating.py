"""The migration pages: every old name has a new one that can be imported."""

import importlib
import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "migrating"


def names_in(page: str, library: str) -> list[tuple[str, str]]:
    row = rf"^\| `({library}\.[\w.]+)` \| `(loopwright[\w.]*)` \|$"
    return re.findall(row, (PAGES / page).read_text(), re.M)


NAMES = names_in("pytorch-accelerated.md", "pytorch_accelerated")
AITOOLBOX = names_in("aitoolbox.md", "aitoolbox")
LERNOMATIC = names_in("lernomatic.md", "lernomatic")


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


def test_the_aitoolbox_page_is_read():
    assert len(AITOOLBOX) > 20


@pytest.mark.parametrize(("old", "new"), NAMES + AITOOLBOX)
def test_new_name_can_be_imported(old, new):
    try:
        importlib.import_module(new)
    except ModuleNotFoundError:
        home, _, name = new.rpartition(".")
        assert hasattr(importlib.import_module(home), name), f"{new} (formerly {old})"
        assert name == old.rpartition(".")[2]


def test_the_page_lists_lernomatics_trainers_models_and_schedules():
    schedules = ["Step", "LinearDecay", "LogDecay", "ExponentialDecay", "WarmRestart", "Triangular"]
    schedules += ["InvTriangular", "TriangularExp", "Triangular2", "Triangular2Exp", "EpochSet"]
    shipped = [f"{name}Scheduler" for name in [*schedules, "LR", "Mtm", "TriangularMtm"]]
    shipped += ["TriangularDecayWhenAcc", "DecayWhenAcc", "DecayWhenEpoch", "DecayToEpoch"]
    shipped += ["Trainer", "LernomaticModel", "Inferrer"]
    shipped += ["LRFinder", "LogFinder", "lr_finder_auto_load"]
    assert set(shipped) <= {old.rpartition(".")[2] for old, _ in LERNOMATIC}


@pytest.mark.parametrize(("old", "new"), LERNOMATIC)
def test_what_stands_for_a_name_of_lernomatic_can_be_imported(old, new):
    home, _, name = new.rpartition(".")
    assert hasattr(importlib.import_module(home), name), f"{new} (formerly {old})"


GYMNOS = re.findall(
    r"^\| `([\w.]+)`(?: \([^)]*\))? \| `(loopwright\.[\w.]*)` \|$",
    (PAGES / "gymnos.md").read_text(),
    re.M,
)
GYMNOS_TYPES = re.findall(
    r"^\| ([a-z ]+) \| `(\w+)` \| `(\w+)` \|$", (PAGES / "gymnos.md").read_text(), re.M
)


def test_the_page_lists_what_the_document_names():
    documented = ["trainer.Trainer", "core.dataset.Dataset", "core.model.Model"]
    documented += ["core.tracking.Tracking", "callbacks.Callback"]
    documented += [f"trainer.Trainer.{each}" for each in ("train", "predict", "predict_proba")]
    documented += [f"trainer.Trainer.{each}" for each in ("save", "load", "from_dict", "to_dict")]
    assert {f"gymnos.{name}" for name in documented} <= {old for old, _ in GYMNOS}


@pytest.mark.parametrize(("old", "new"), GYMNOS)
def test_what_stands_for_a_name_of_gymnos_can_be_imported(old, new):
    names = new.split(".")
    depth = next(i for i, name in enumerate(names) if name[0].isupper())
    found = importlib.import_module(".".join(names[:depth]))
    for name in names[depth:]:
        assert hasattr(found, name), f"{new} (formerly {old})"
        found = getattr(found, name)


@pytest.mark.parametrize(("kind", "old", "new"), GYMNOS_TYPES)
def test_what_stands_for_a_type_of_gymnos_is_registered(kind, old, new):
    from loopwright.augmentors import augmentors
    from loopwright.datasets import datasets
    from loopwright.models import models
    from loopwright.preprocessors import preprocessors
    from loopwright.trackers import trackers

    registries = {
        "augmentor": augmentors,
        "data set": datasets,
        "model": models,
        "tracker": trackers,
    }
    assert new in registries.get(kind, preprocessors), f"formerly {old}"
    assert kind in {*registries, "preprocessor"}

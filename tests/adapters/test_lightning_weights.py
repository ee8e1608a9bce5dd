"""The weights that the adapter ends with are those of Lightning's trainer, bit for bit."""

from typing import Any

import pytest
import torch
from tiny import Stream, same
from torch.optim import SGD, Adam, lr_scheduler
from torch.utils.data import DataLoader

from adapters.lightning_modules import (
    Classifier,
    fitted,
    loader,
    metrics_of,
    state_of,
    trainer_of,
)


def plateau(module: Any, **entries: Any) -> Any:
    optimizer = SGD(module.parameters(), 0.5)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss", **entries},
    }


def scheduled(module: Any, **entries: Any) -> Any:
    optimizer = SGD(module.parameters(), 0.2, momentum=0.9)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.8)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **entries}}


def two_lists(module: Any) -> Any:
    optimizer = Adam(module.parameters(), 0.01)
    return [optimizer], [lr_scheduler.StepLR(optimizer, 1, 0.5)]


def two_lists_of_dicts(module: Any) -> Any:
    optimizer = Adam(module.parameters(), 0.01)
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.9)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def planned(module: Any) -> Any:
    optimizer = SGD(module.parameters(), 0.1)
    total = module.trainer.estimated_stepping_batches
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=total)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


FORMS = {
    "optimizer": lambda module: Adam(module.parameters(), 0.02),
    "list": lambda module: [Adam(module.parameters(), 0.02)],
    "tuple": lambda module: (Adam(module.parameters(), 0.02),),
    "two lists": two_lists,
    "two lists, dicts": two_lists_of_dicts,
    "dict": lambda module: {"optimizer": Adam(module.parameters(), 0.02)},
    "dict, scheduler": lambda module: {
        "optimizer": (optimizer := SGD(module.parameters(), 0.2)),
        "lr_scheduler": lr_scheduler.StepLR(optimizer, 1, 0.5),
    },
    "interval epoch": scheduled,
    "interval step": lambda module: scheduled(module, interval="step"),
    "frequency": lambda module: scheduled(module, interval="step", frequency=4),
    "name": lambda module: scheduled(module, name="rate"),
    "plateau": plateau,
    "plateau, step": lambda module: plateau(module, interval="step", frequency=6),
    "plateau, not strict": lambda module: plateau(module, monitor="absent", strict=False),
    "plateau, monitor beside": lambda module: {
        "optimizer": (optimizer := SGD(module.parameters(), 0.5)),
        "lr_scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
        "monitor": "val_loss",
    },
    "tuple of dicts": lambda module: (scheduled(module),),
    "estimated_stepping_batches": planned,
    "LBFGS": lambda module: torch.optim.LBFGS(module.parameters(), 0.1, max_iter=3),
    "None": lambda module: None,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_configure_optimizers(form: str) -> None:
    def make() -> Classifier:
        return Classifier(FORMS[form])

    theirs, ours = fitted("lightning", make), fitted("loopwright", make)
    assert same(state_of(theirs[1]), state_of(ours[1]))
    rates = [
        [each.get("lr") for optimizer in trainer.optimizers for each in optimizer.param_groups]
        for trainer, _ in (theirs, ours)
    ]
    assert rates == rates[::-1]
    assert metrics_of(theirs[0]) == metrics_of(ours[0])
    assert ours[0].global_step == theirs[0].global_step


OPTIONS: dict[str, dict[str, Any]] = {
    "accumulation": {"accumulate_grad_batches": 4},
    "accumulation and clipping": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05},
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "validation inside epochs": {"val_check_interval": 2},
    "validation by part": {"val_check_interval": 0.5},
    "validation over epochs": {"val_check_interval": 7, "check_val_every_n_epoch": None},
    "validation every other epoch": {"check_val_every_n_epoch": 2},
    "no sanity check": {"num_sanity_val_steps": 0},
    "max_steps": {"max_steps": 8, "max_epochs": -1},
    "min_steps": {"max_steps": 10, "min_steps": 3},
    "limits": {"limit_train_batches": 3, "limit_val_batches": 1},
    "limits by part": {"limit_train_batches": 0.5, "limit_val_batches": 0.5},
    "overfit_batches": {"overfit_batches": 2},
    "fast_dev_run": {"fast_dev_run": 2},
    "bf16": {"precision": "bf16-mixed"},
    "float64": {"precision": "64-true"},
    "bf16 throughout": {"precision": "bf16-true"},
    "max_epochs 0": {"max_epochs": 0},
    "detect_anomaly": {"detect_anomaly": True},
    "barebones": {"barebones": True, "logger": None, "enable_checkpointing": None}
    | {"enable_progress_bar": None, "enable_model_summary": None},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_of_the_trainer(name: str) -> None:
    theirs, ours = fitted("lightning", **OPTIONS[name]), fitted("loopwright", **OPTIONS[name])
    assert same(state_of(theirs[1]), state_of(ours[1]))
    assert metrics_of(theirs[0]) == metrics_of(ours[0])
    counts = ("global_step", "current_epoch", "num_training_batches", "max_epochs", "max_steps")
    for name in counts:
        assert getattr(ours[0], name) == getattr(theirs[0], name), name


def stream() -> tuple[Any, ...]:
    return DataLoader(Stream(22), 4), DataLoader(Stream(10), 4)


def several() -> tuple[Any, ...]:
    return {"a": loader(shuffle=True), "b": loader(10, 2)}, loader()


class OfSeveral(Classifier):
    """Trains on the batches of two loaders at once."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch["a"]) + self.loss(batch["b"])


@pytest.mark.parametrize(
    ("make", "data"), [(Classifier, stream), (OfSeveral, several)], ids=["stream", "several"]
)
def test_each_kind_of_data(make: Any, data: Any) -> None:
    options = {"data": data, "accumulate_grad_batches": 2}
    theirs, ours = fitted("lightning", make, **options), fitted("loopwright", make, **options)
    assert same(state_of(theirs[1]), state_of(ours[1]))
    assert metrics_of(theirs[0]) == metrics_of(ours[0])


class OfTwo(Classifier):
    """Is validated, tested and asked on two loaders."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))
        self.log(f"alone_{dataloader_idx}", self.loss(batch), add_dataloader_idx=False)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
        return self.net(batch[0]) + dataloader_idx


@pytest.mark.parametrize("make", [Classifier, OfTwo], ids=["one loader", "two loaders"])
def test_validate_test_and_predict_return_the_same(make: Any) -> None:
    data = [loader(), loader(10, 2)] if make is OfTwo else loader()
    results = []
    for kind in ("lightning", "loopwright"):
        torch.manual_seed(5)
        module, trainer = make(), trainer_of(kind)
        results.append(
            (
                trainer.validate(module, data, verbose=False),
                trainer.test(module, data, verbose=False),
                trainer.predict(module, data),
            )
        )
    theirs, ours = results
    assert theirs[:2] == ours[:2]
    assert len(ours[0]) == (2 if make is OfTwo else 1)
    pairs = zip(theirs[2], ours[2], strict=True)
    assert all(same(a, b) if make is OfTwo else torch.equal(a, b) for a, b in pairs)


class WithoutDropout(Classifier):
    """Draws nothing, as Lightning starts loaders twice where it asks for them again."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3].p = 0.0
        self.num_asked = 0

    def train_dataloader(self) -> Any:
        self.num_asked += 1
        return loader(8 + 4 * self.num_asked)


def test_data_that_is_asked_for_again() -> None:
    options = {"data": tuple, "reload_dataloaders_every_n_epochs": 1}
    theirs = fitted("lightning", WithoutDropout, **options)
    ours = fitted("loopwright", WithoutDropout, **options)
    assert same(state_of(theirs[1]), state_of(ours[1]))
    assert theirs[1].num_asked == ours[1].num_asked == 3


def test_two_calls_of_fit_go_on() -> None:
    states = []
    for kind in ("lightning", "loopwright"):
        trainer, module = fitted(kind, WithoutDropout, tuple)
        trainer.fit_loop.max_epochs = 5
        trainer.fit(module)
        assert (trainer.current_epoch, module.num_asked) == (5, 2)
        states.append(state_of(module))
    assert same(*states)

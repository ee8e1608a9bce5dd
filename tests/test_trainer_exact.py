"""A run equals twenty lines of plain PyTorch bit for bit, and draws from nobody's generators."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import MapData, global_states, same, tiny_data, tiny_model, tiny_trainer, weights
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from loopwright.callbacks import StepBasedEvaluationCallback
from loopwright.data import epoch_order
from loopwright.errors import NotSupportedError
from loopwright.trainer import Trainer

SEED, SIZE, EPOCHS = 3, 4, 3

Optimizers = Callable[[Any], torch.optim.Optimizer]


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def decay(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def ordered_batches(dataset: Any, epoch: int) -> Iterator[Any]:
    """The batches of an epoch, by the public order of data."""
    order = epoch_order(len(dataset[0]), SEED, epoch)
    for rows in order.split(SIZE):
        yield dataset[0][rows], dataset[1][rows]


def plain_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], Any],
    *,
    scheduler: Any = None,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    context: Callable[[], Any] = nullcontext,
    evaluate: Callable[[nn.Module], None] | None = None,
    accumulate: int = 1,
) -> None:
    """Train as anybody would by hand."""
    loss_func = nn.CrossEntropyLoss()
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for index, (inputs, targets) in enumerate(batches(epoch)):
            with context():
                loss = loss_func(model(inputs), targets)
            (loss / accumulate).backward()
            if (index + 1) % accumulate:
                continue
            if clip_value is not None:
                nn.utils.clip_grad_value_(model.parameters(), clip_value)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            optimizer.zero_grad()
        if evaluate is not None:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                evaluate(model.eval())


CASES: dict[str, dict[str, Any]] = {
    "momentum": {"make": momentum},
    "adam": {"make": adam},
    "scheduler": {"make": momentum, "scheduler": decay},
    "clip value": {"make": momentum, "clip_value": 0.01},
    "clip norm": {"make": adam, "clip_norm": 0.1},
    "both clips": {"make": momentum, "clip_value": 0.02, "clip_norm": 0.03},
    "dropout": {"make": momentum, "dropout": 0.5},
    "bf16": {"make": momentum, "precision": "bf16"},
    "accumulation": {"make": adam, "accumulate": 2, "scheduler": decay},
    "everything": {
        "make": adam,
        "scheduler": decay,
        "clip_norm": 0.1,
        "dropout": 0.5,
        "precision": "bf16",
        "accumulate": 4,
    },
}


@pytest.mark.parametrize("kind", ["tensors", "map-style"])
@pytest.mark.parametrize("with_eval", [False, True], ids=["alone", "with evaluation"])
@pytest.mark.parametrize("name", CASES)
def test_weights_equal_a_plain_loop_bit_for_bit(name: str, with_eval: bool, kind: str) -> None:
    """P-38, P-57: also with evaluation in between, which must not move the random state."""
    case = {"scheduler": None, "clip_value": None, "clip_norm": None, "dropout": 0.0} | CASES[name]
    accumulate, precision = case.get("accumulate", 1), case.get("precision", "fp32")
    data, eval_data = tiny_data(16 if accumulate > 1 else 14), tiny_data(7)
    by_hand, model = (tiny_model(dropout=case["dropout"]) for _ in range(2))
    optimizer = case["make"](by_hand.parameters())

    torch.manual_seed(5)
    plain_loop(
        by_hand,
        optimizer,
        lambda epoch: ordered_batches(data, epoch),
        scheduler=case["scheduler"] and case["scheduler"](optimizer),
        clip_value=case["clip_value"],
        clip_norm=case["clip_norm"],
        context=lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        accumulate=accumulate,
        evaluate=(lambda model: model(eval_data[0])) if with_eval else None,
    )
    expected_draw = torch.rand(3)

    torch.manual_seed(5)
    trainer = Trainer(
        model,
        nn.CrossEntropyLoss(),
        case["make"](model.parameters()),
        callbacks=[StepBasedEvaluationCallback(2)] if with_eval else [],
        seed=SEED,
        precision=precision,
    )
    trainer.train(
        data if kind == "tensors" else MapData(len(data[0])),
        EPOCHS,
        eval_data if with_eval else None,
        per_device_batch_size=SIZE,
        gradient_accumulation_steps=accumulate,
        gradient_clip_value=case["clip_value"],
        gradient_clip_norm=case["clip_norm"],
        create_scheduler_fn=case["scheduler"],
        train_dataloader_kwargs={"num_workers": 0},
    )
    assert same(by_hand.parameters(), model.parameters())
    assert not same(model.parameters(), tiny_model().parameters())
    assert torch.equal(torch.rand(3), expected_draw)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loader_of_the_user_is_iterated_as_by_hand(dropout: float) -> None:
    """Its draws from the global generator are the user's own, at the same places as by hand."""
    dataset, eval_data = TensorDataset(*tiny_data(14)), TensorDataset(*tiny_data(7))

    class OwnLoaders(Trainer):
        def create_train_dataloader(self, *args: Any, **kwargs: Any) -> Any:
            return DataLoader(dataset, batch_size=SIZE, shuffle=True)

        def create_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
            return DataLoader(eval_data, batch_size=SIZE, shuffle=True)

    def evaluate(model: nn.Module) -> None:
        for inputs, _ in DataLoader(eval_data, batch_size=SIZE, shuffle=True):
            model(inputs)

    by_hand, model = (tiny_model(dropout=dropout) for _ in range(2))
    loader = DataLoader(dataset, batch_size=SIZE, shuffle=True)
    torch.manual_seed(5)
    plain_loop(by_hand, momentum(by_hand.parameters()), lambda _: loader, evaluate=evaluate)
    torch.manual_seed(5)
    trainer = OwnLoaders(model, nn.CrossEntropyLoss(), momentum(model.parameters()), callbacks=())
    trainer.train(dataset, EPOCHS, eval_data, per_device_batch_size=SIZE)
    assert same(by_hand.parameters(), model.parameters())


def test_the_seed_is_read_from_torch_without_drawing() -> None:
    torch.manual_seed(SEED)
    before = global_states()
    trainer = tiny_trainer(seed=None)
    assert trainer.seed == SEED
    assert global_states() == before
    trainer.train(tiny_data(), 1)
    other = tiny_trainer(seed=SEED)
    other.train(tiny_data(), 1)
    assert same(weights(trainer), weights(other))


# ---------------------------------------------------------------- nobody's generators


class Frozen(Dataset[Any]):
    """Raises when something draws between two fetches."""

    def __init__(self) -> None:
        self.inputs, self.targets = tiny_data(8)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], self.targets[index]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dataset", [tiny_data(8), Frozen()], ids=["tensors", "map-style"])
def test_a_run_draws_nothing_from_the_global_generators(dataset: Any, workers: int) -> None:
    before = global_states()
    trainer = tiny_trainer()
    options = {"num_workers": workers} if isinstance(dataset, Frozen) else {}
    trainer.train(
        dataset,
        2,
        dataset,
        per_device_batch_size=3,
        train_dataloader_kwargs=options,
        eval_dataloader_kwargs=options,
    )
    trainer.evaluate(dataset, dataloader_kwargs=options)
    if not isinstance(dataset, Frozen):
        trainer.predict(dataset)
    assert global_states() == before


def test_a_dataset_that_draws_leaves_the_generators_alone() -> None:
    before = global_states()
    trainer = tiny_trainer()
    options = {"num_workers": 0}
    trainer.train(MapData(8, noise=True), 1, train_dataloader_kwargs=options)
    assert global_states() == before


# ------------------------------------------------------------------- several optimizers


class Pair(nn.Module):
    """Two networks that play against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.d = tiny_model(), tiny_model()


def d_loss(pair: Pair, inputs: torch.Tensor) -> torch.Tensor:
    real, fake = pair.d(inputs), pair.d(pair.g(inputs).detach())
    return (fake.sigmoid() - real.sigmoid()).mean()


def g_loss(pair: Pair, inputs: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = -pair.d(pair.g(inputs)).sigmoid().mean()
    return loss


class PairTrainer(Trainer):
    """Trains each of the two with an optimizer of its own."""

    def train_step(self, batch: Any) -> None:
        self.update(d_loss(self.model, batch[0]), "d")
        self.update(g_loss(self.model, batch[0]), "g")


def pair_trainer(cls: type[Trainer] = PairTrainer) -> Any:
    pair = Pair()
    optimizers = {"d": adam(pair.d.parameters()), "g": momentum(pair.g.parameters())}
    return cls(pair, None, optimizers, callbacks=(), seed=SEED)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_several_optimizers_equal_a_plain_loop(accumulate: int) -> None:
    data, by_hand = tiny_data(16), Pair()
    d, g = adam(by_hand.d.parameters()), momentum(by_hand.g.parameters())
    schedule = decay(g)
    for epoch in range(1, EPOCHS + 1):
        for index, (inputs, _) in enumerate(ordered_batches(data, epoch)):
            completes = (index + 1) % accumulate == 0
            loss = d_loss(by_hand, inputs) / accumulate
            loss.backward(inputs=list(by_hand.d.parameters()))
            if completes:
                d.step()
                d.zero_grad()
            loss = g_loss(by_hand, inputs) / accumulate
            loss.backward(inputs=list(by_hand.g.parameters()))
            if completes:
                g.step()
                schedule.step()
                g.zero_grad()
    trainer = pair_trainer()
    trainer.train(
        data,
        EPOCHS,
        per_device_batch_size=SIZE,
        gradient_accumulation_steps=accumulate,
        create_scheduler_fn={"g": decay},
    )
    assert same(by_hand.parameters(), trainer.model.parameters())
    assert trainer.progress.step == EPOCHS * 4 // accumulate
    assert trainer.run_history.get_metric_names() == {"train_d_loss_epoch", "train_g_loss_epoch"}


def test_named_losses_are_means_over_samples() -> None:
    pair = Pair()
    optimizers = {n: torch.optim.SGD(getattr(pair, n).parameters(), lr=0.0) for n in ("d", "g")}
    trainer = PairTrainer(pair, None, optimizers, callbacks=(), seed=SEED)
    trainer.train(tiny_data(14), 1, per_device_batch_size=SIZE)
    with torch.no_grad():
        expected = g_loss(pair, tiny_data(14)[0]).item()
    assert trainer.run_history.get_latest_metric("train_g_loss_epoch") == pytest.approx(expected)


@pytest.mark.parametrize("name", [None, "f"])
def test_an_update_of_an_optimizer_that_is_not_there_is_refused(name: str | None) -> None:
    class Wrong(PairTrainer):
        def train_step(self, batch: Any) -> None:
            self.update(d_loss(self.model, batch[0]), name)

    with pytest.raises(ValueError, match="no such optimizer. There is 'd', 'g'"):
        pair_trainer(Wrong).train(tiny_data(), 1)


def test_a_step_that_updates_nothing_is_refused() -> None:
    class Forgetful(PairTrainer):
        def train_step(self, batch: Any) -> None: ...

    with pytest.raises(RuntimeError, match="did not call self.update"):
        pair_trainer(Forgetful).train(tiny_data(), 1)


def test_two_updates_of_one_optimizer_in_a_micro_batch_are_refused_under_accumulation() -> None:
    class Twice(PairTrainer):
        def train_step(self, batch: Any) -> None:
            self.update(d_loss(self.model, batch[0]), "d")
            self.update(d_loss(self.model, batch[0]), "d")

    pair_trainer(Twice).train(tiny_data(), 1)
    with pytest.raises(ValueError, match="called twice"):
        pair_trainer(Twice).train(tiny_data(), 1, gradient_accumulation_steps=2)


@pytest.mark.parametrize("as_dict", [False, True])
def test_optimizers_that_need_a_closure_are_refused(as_dict: bool) -> None:
    model = tiny_model()
    optimizer: Any = torch.optim.LBFGS(model.parameters())
    optimizer = {"only": optimizer} if as_dict else optimizer
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, callbacks=())
    with pytest.raises(NotSupportedError, match="LBFGS.step needs a closure"):
        trainer.train(tiny_data(), 1)
    assert same(model.parameters(), tiny_model().parameters())

"""Options of loaders: defaults, hooks, what is refused; and iterable data."""

import random
from typing import Any

import pytest
import torch
from test_loaders import X, Y, assert_same_batches, loader_of
from tiny import MapData, Stream, global_states, same, tiny_trainer, weights
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from loopwright.loaders import IterableLoader
from loopwright.trainer import Trainer


@pytest.mark.parametrize("dataset", [(X, Y), MapData(), Stream()], ids=["tensors", "map", "iter"])
def test_unknown_options_are_refused(dataset: Any) -> None:
    with pytest.raises(TypeError, match="'num_worker' is no option.*'num_workers'"):
        loader_of(dataset, num_worker=1)


def test_options_that_contradict_each_other_are_refused() -> None:
    sampler = BatchSampler(SequentialSampler(X), 4, False)
    with pytest.raises(ValueError, match="batch_sampler decides the order itself.*shuffle"):
        loader_of((X, Y), batch_sampler=sampler, shuffle=True)
    with pytest.raises(ValueError, match="sampler decides the order itself.*shuffle"):
        loader_of((X, Y), sampler=[1], shuffle=True)
    with pytest.raises(ValueError, match="batch_size is None"):
        loader_of((X, Y), batch_size=None)


def test_a_sampler_of_none_is_no_sampler() -> None:
    """P-59: only a sampler takes the place of shuffling."""
    plain, with_none = tiny_trainer(), tiny_trainer()
    plain.train((X, Y), 1)
    with_none.train((X, Y), 1, train_dataloader_kwargs={"sampler": None})
    assert same(weights(plain), weights(with_none))


def test_default_options() -> None:
    """P-60."""
    trainer = tiny_trainer(device="cpu")
    options = trainer.get_default_train_dl_kwargs(8)
    assert {k: options[k] for k in ("shuffle", "batch_size", "pin_memory")} == {
        "shuffle": True,
        "batch_size": 8,
        "pin_memory": False,
    }
    assert options["num_workers"] >= 1
    assert callable(options["worker_init_fn"])
    assert trainer.get_default_eval_dl_kwargs(8) == {**options, "shuffle": False}


def test_a_hook_for_evaluation_loaders_does_not_change_training() -> None:
    """P-17: the two are overridden apart."""

    class LargeEvaluation(Trainer):
        def get_default_eval_dl_kwargs(self, batch_size: int) -> dict[str, Any]:
            return {**super().get_default_eval_dl_kwargs(batch_size), "batch_size": 2 * batch_size}

    trainer = tiny_trainer(LargeEvaluation)
    trainer.train((X, Y), 1, (X, Y), per_device_batch_size=2)
    assert trainer.progress.step == 5
    assert trainer.run_config.eval_per_device_batch_size == 4


class Empty(Dataset[Any]):
    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError


def test_no_data_is_said() -> None:
    trainer = tiny_trainer()
    with pytest.warns(UserWarning, match="gave no batch in epoch 1"):
        trainer.train((X[:0], Y[:0]), 1)


# ----------------------------------------------------------------------- iterable data


class Drawing(IterableDataset[Any]):
    def __iter__(self) -> Any:
        for _ in range(6):
            yield torch.rand(1) + random.random()


def test_iterable_data_keeps_its_order_and_has_no_length() -> None:
    loader = loader_of(Stream(10))
    assert isinstance(loader, IterableLoader)
    assert_same_batches(list(loader), list(DataLoader(TensorDataset(X, Y), batch_size=4)))
    with pytest.raises(TypeError):
        len(loader)


def test_draws_of_iterable_data_are_fixed_too() -> None:
    before = global_states()
    loader = loader_of(Drawing())
    first = list(loader)
    assert_same_batches(list(loader), first)
    loader.epoch = 2
    assert not torch.equal(next(iter(loader)), first[0])
    assert global_states() == before


def test_iterable_data_is_not_given_to_workers_by_default() -> None:
    """Each worker would give all of it."""
    trainer = tiny_trainer()
    trainer.train(Stream(10), 1, per_device_batch_size=4)
    assert trainer.progress.samples == 10


@pytest.mark.parametrize("option", [{"shuffle": True}, {"sampler": [0]}], ids=str)
def test_an_order_cannot_be_given_for_iterable_data(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be given for an iterable dataset"):
        loader_of(Stream(10), **option)

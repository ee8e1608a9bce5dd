"""What a TrainLoop trains: TTModels, wrapped modules, several losses, several GPUs."""

from typing import Any

import pytest
import torch
from loops import Feed, Recorder, TinyModel, TwoHeads, adam, loader, make_loop, state_of
from tiny import same, tiny_data, tiny_model
from torch import nn

from loopwright.trainloop import (
    AbstractModelFeedDefinition,
    BasicDataset,
    ListDataset,
    ModelWrap,
    MultiGPUModelWrap,
    MultiLoss,
    MultiOptimizer,
    TrainLoop,
    TTBasicModel,
    TTBasicMultiGPUModel,
    TTDataParallel,
    TTModel,
)
from loopwright.trainloop.parallel import mean_of_parts

INPUTS, TARGETS = tiny_data(6)
CPU = torch.device("cpu")


def test_a_model_without_its_methods_cannot_be_made() -> None:
    """A-49, A-51."""

    class Half(TTModel):
        def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
            return None

    with pytest.raises(TypeError, match="get_predictions"):
        Half()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="get_loss"):
        TTModel()  # type: ignore[abstract]


def test_the_loss_of_evaluation_can_be_another() -> None:
    """A-50."""

    class Other(TinyModel):
        def get_loss_eval(self, batch_data: Any, criterion: Any, device: Any) -> Any:
            return torch.tensor(3.0)

    assert TinyModel(0.0).get_loss_eval((INPUTS, TARGETS), nn.CrossEntropyLoss(), CPU) > 0
    loop = make_loop(model=Other())
    loop.fit(1)
    assert loop.train_history["loss"] == loop.train_history["val_loss"] == [3.0]
    assert loop.train_history["accumulated_loss"] != [3.0]


class Basic(TTBasicModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = tiny_model()

    def forward(self, inputs: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
        return self.layers(inputs if factor is None else inputs * factor)


def test_the_basic_model_takes_all_but_the_last_as_inputs() -> None:
    """A-53."""
    model, criterion = Basic(), nn.CrossEntropyLoss()
    factor = torch.full((6, 1), 2.0)
    loss = model.get_loss([INPUTS, factor, TARGETS], criterion, CPU)
    assert loss == criterion(model.layers(INPUTS * 2), TARGETS)
    predictions, targets, metadata = model.get_predictions([INPUTS, TARGETS], CPU)
    assert torch.equal(predictions, model.layers(INPUTS))
    assert (targets is TARGETS, metadata) == (True, {})


def test_a_plain_module_is_trained_with_a_feed_definition() -> None:
    """A-55: as the same layers in a model of their own."""

    def data() -> Any:
        return list(zip(INPUTS.split(2), TARGETS.split(2), strict=True))

    wrapped = make_loop(model=ModelWrap(tiny_model(), Feed()), train=data(), val=data())
    basic = make_loop(model=Basic(), train=data(), val=data())
    assert type(wrapped.fit(2)) is nn.Sequential
    basic.fit(2)
    assert same(state_of(wrapped), state_of(basic))
    assert wrapped.train_history.train_history == basic.train_history.train_history
    assert torch.equal(wrapped.predict_on_train_set()[0], basic.predict_on_train_set()[0])


def test_what_a_wrap_refuses() -> None:
    """A-55."""
    with pytest.raises(TypeError, match="The model is a int; expected a torch.nn.Module"):
        ModelWrap(3, Feed())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batch_model_feed_def is a NoneType"):
        ModelWrap(tiny_model(), None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="get_predictions"):
        AbstractModelFeedDefinition()  # type: ignore[abstract]


def test_the_loss_can_be_computed_inside_forward() -> None:
    """A-54."""
    criterion, layers = nn.CrossEntropyLoss(), tiny_model()
    model = MultiGPUModelWrap(layers)
    assert isinstance(model, TTBasicMultiGPUModel)
    assert model(INPUTS, targets=TARGETS, criterion=criterion) == criterion(layers(INPUTS), TARGETS)
    assert torch.equal(model(INPUTS), layers(INPUTS))
    loss = model.get_loss([INPUTS, TARGETS], criterion, CPU)
    assert loss == criterion(layers(INPUTS), TARGETS)
    with pytest.raises(TypeError, match="expected a torch.nn.Module"):
        MultiGPUModelWrap("model")  # type: ignore[arg-type]


def test_data_parallel_wraps_the_model() -> None:
    """A-48: without GPUs the wrapper calls the module; what is saved has no prefix."""
    torch.manual_seed(4)
    single = make_loop(model=TinyModel(0.0), train=loader())
    single.fit(2)
    torch.manual_seed(4)
    loop = make_loop(model=TinyModel(0.0), train=loader(), gpu_mode="dp")
    model = loop.fit(2, dp_model_args={"dim": 0})
    assert isinstance(model, TTDataParallel)
    assert model is loop.model
    assert model.layers is model.module.layers
    assert set(loop.checkpoint_content()["model_state_dict"]) == set(single.model.state_dict())
    wrapped = make_loop(model=ModelWrap(tiny_model(), Feed()), gpu_mode="dp", val=None)
    assert type(wrapped.fit(1)) is nn.DataParallel


def test_methods_of_a_wrapped_model_call_the_wrapper() -> None:
    """A-48: so that `self(...)` in them splits the batch."""
    called: list[Any] = []

    class Looks(TTDataParallel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            called.append(self)
            return super().forward(*args, **kwargs)

    model = Looks(TinyModel())
    model.get_loss((INPUTS, TARGETS), nn.CrossEntropyLoss(), CPU)
    model.get_loss_eval((INPUTS, TARGETS), nn.CrossEntropyLoss(), CPU)
    model.get_predictions((INPUTS, TARGETS), CPU)
    assert called == [model] * 3
    with pytest.raises(AttributeError, match="nothing"):
        model.nothing  # noqa: B018


def test_losses_of_parts_are_joined_by_their_samples() -> None:
    """A-48, A-54: a batch of 5 over 2 GPUs is split into 3 and 2."""
    assert mean_of_parts(torch.tensor([1.0, 2.0]), 5) == pytest.approx((3 * 1.0 + 2 * 2.0) / 5)
    assert mean_of_parts(torch.tensor(4.0), 5) == 4.0


def test_several_losses_have_their_own_optimizers() -> None:
    """A-57: to the bit, as two loops by hand; history names end in those of the losses."""
    torch.manual_seed(2)
    data = list(zip(INPUTS.split(2), TARGETS.split(2), strict=True))
    model, criterion = TwoHeads(), nn.CrossEntropyLoss()
    optimizers = [adam(model.layers), adam(model.second)]
    totals = [0.0, 0.0]
    for batch in data:
        losses = model.get_loss(batch, criterion, CPU)
        for index, (loss, optimizer) in enumerate(zip(losses.values(), optimizers, strict=True)):
            totals[index] += 2 * loss.item()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.manual_seed(2)
    recorder = Recorder()
    loop = make_loop(model=TwoHeads(), train=data, val=data, test=data)
    loop.fit(1, callbacks=[recorder])
    assert same(state_of(loop), model.state_dict().values())
    history = loop.train_history.train_history
    assert history["accumulated_loss_first"] == [totals[0] / 6]
    assert history["accumulated_loss_second"] == [totals[1] / 6]
    names = {"loss", "val_loss", "train_end_test_loss"}
    assert {f"{n}_{x}" for n in names for x in ("first", "second")} <= set(history)
    gradients = ["gradient 0", "step", "gradient 1", "step"]
    assert recorder.names[3 : 3 + 6] == ["batch begin", *gradients, "batch end"]
    losses = loop.evaluate_loss_on_test_set()
    assert isinstance(losses, MultiLoss)
    assert loop.evaluate_loss_on_test_set(float_dict_format=True) == dict(losses.item())


def test_losses_can_choose_their_optimizers() -> None:
    """A-57: by index, whatever the order of the losses."""

    class Crossed(TwoHeads):
        def get_loss(self, *args: Any) -> Any:
            losses = super().get_loss(*args)
            return MultiLoss(dict(losses), {"first": 1, "second": 0})

    model = Crossed()
    optimizer = MultiOptimizer([adam(model.second), adam(model.layers, lr=0.0)])
    loop = TrainLoop(model, loader(), None, None, optimizer, nn.CrossEntropyLoss())
    loop.fit(1)
    assert same(model.layers.parameters(), tiny_model().parameters())
    assert not same(model.second.parameters(), tiny_model().parameters())


def test_an_optimizer_may_step_less_often() -> None:
    """A-57: `MultiOptimizer.step` is called with the batch's index, and can be overridden."""

    class FirstAtEvenBatches(MultiOptimizer):
        def step(self, optimizer_idx: int, iteration: int, amp_grad_scaler: Any) -> None:
            assert amp_grad_scaler.is_enabled() is False
            if optimizer_idx or iteration % 2 == 0:
                super().step(optimizer_idx, iteration, amp_grad_scaler)

    model = TwoHeads()
    optimizer = FirstAtEvenBatches([adam(model.layers), adam(model.second)])
    TrainLoop(model, loader(), None, None, optimizer, nn.CrossEntropyLoss()).fit(2)
    assert [int(each.state_dict()["state"][0]["step"]) for each in optimizer] == [4, 8]


def test_a_loss_for_each_optimizer_is_needed() -> None:
    """A-57."""
    model = TinyModel()
    loop = TrainLoop(
        model, loader(), None, None, MultiOptimizer([adam(model)]), nn.CrossEntropyLoss()
    )
    with pytest.raises(
        ValueError, match="get_loss returned one loss, and .* a MultiOptimizer of 1"
    ):
        loop.fit(1)
    two = TwoHeads()
    loop = TrainLoop(two, loader(), None, None, adam(two), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="a MultiLoss of 2, and the loop has one optimizer"):
        loop.fit(1)


def test_a_map_of_another_length_is_refused() -> None:
    """A-58."""
    losses = {"a": torch.ones(()), "b": torch.ones(())}
    for wrong in ({"a": 0}, {"a": 0, "c": 1}, {"a": 0, "b": 0}):
        with pytest.raises(ValueError, match="expected the index of one optimizer for each"):
            MultiLoss(losses, wrong)


def test_a_multi_loss_is_a_dict() -> None:
    """A-57."""
    losses = MultiLoss({"a": torch.tensor(4.0), "b": torch.tensor(6.0)})
    assert (losses / 2).item() == {"a": 2.0, "b": 3.0}
    assert losses.to(torch.float64)["a"].dtype == torch.float64
    assert losses.device == {"a": CPU, "b": CPU}
    assert losses.cpu().numpy().get_loss_dict() == {"a": 4.0, "b": 6.0}
    losses["c"] = torch.zeros(())
    del losses["a"]
    assert (list(losses), len(losses)) == (["b", "c"], 2)
    assert "tensor(6.)" in repr(losses)


def test_states_of_several_optimizers() -> None:
    """A-59."""
    model = tiny_model()
    optimizer = MultiOptimizer([adam(model[0]), adam(model[3])])
    states = optimizer.state_dict()
    assert [type(state) for state in states] == [dict, dict]
    states[1]["param_groups"][0]["lr"] = 0.5
    optimizer.load_state_dict(states)
    assert optimizer[1].param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="of 1 optimizers, and here are 2"):
        optimizer.load_state_dict(states[:1])
    with pytest.raises(TypeError, match="is a dict; expected a list"):
        optimizer.load_state_dict({})  # type: ignore[arg-type]
    assert len(optimizer) == 2


def test_data_sets_over_lists() -> None:
    assert BasicDataset([1, 2])[1] == 2
    assert len(BasicDataset([1, 2])) == 2
    both = ListDataset([1, 2], "ab")
    assert (len(both), both[1]) == (2, (2, "b"))
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        ListDataset([1], "ab")

"""The wrapper with lernomatic's names, and what uses a trained model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same, tiny_data, tiny_model, weights
from torch import nn

from loopwright.errors import CheckpointError
from loopwright.trainers import ClassificationTrainer, Inferrer, ModelWrapper
from trainers.test_classification import _in_an_empty_folder, make

__all__ = ["_in_an_empty_folder"]  # a fixture, which holds for this file too


class Tiny(ModelWrapper):
    """Makes its own network."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(tiny_model(dropout=dropout))
        self.dropout = dropout

    def get_model_args(self) -> dict[str, Any]:
        return {"dropout": self.dropout}


def test_a_wrapper_is_a_model() -> None:
    """L-03, L-86."""
    wrapper, inputs = Tiny(), tiny_data(4)[0]
    net = wrapper.get_net()
    assert torch.equal(wrapper.forward(inputs), net(inputs))
    assert list(wrapper.get_model_parameters()) == list(net.parameters())
    wrapper.set_eval()
    assert not net.training
    wrapper.set_train()
    assert net.training
    wrapper.send_to("cpu")
    for freeze in (wrapper.freeze, wrapper.freeze_all):
        freeze()
        assert not any(p.requires_grad for p in net.parameters())
        wrapper.unfreeze()
        assert all(p.requires_grad for p in net.parameters())
    wrapper.freeze_to(2)
    assert [p.requires_grad for p in net.parameters()] == [False, False, False, True]
    wrapper.unfreeze_to(0)
    assert [p.requires_grad for p in net.parameters()] == [True, False, False, True]
    wrapper(inputs).sum().backward()
    wrapper.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_its_weights_can_be_read_and_set() -> None:
    """L-86."""
    wrapper, other = Tiny(), Tiny()
    with torch.no_grad():
        next(other.parameters()).zero_()
    wrapper.set_net_state_dict(other.get_net_state_dict())
    assert same(wrapper.parameters(), other.parameters())
    wrapper = Tiny()
    wrapper.set_params(other.get_params())
    assert same(wrapper.parameters(), other.parameters())
    with pytest.raises(CheckpointError, match="the state lacks"):
        wrapper.set_net_state_dict({})


def test_it_knows_what_it_is_made_of() -> None:
    """L-87."""
    wrapper = Tiny()
    assert (wrapper.model_name, wrapper.import_path) == ("Tiny", __name__)
    assert wrapper.module_name == "Sequential"
    assert wrapper.module_import_path == "torch.nn.modules.container"
    names = {"model_name", "model_import_path", "module_name", "module_import_path"}
    assert set(wrapper.get_params()) == names | {"model_state_dict"}


CALLS = {
    "forward": (torch.zeros(1),),
    "get_net": (),
    "get_model_parameters": (),
    "get_net_state_dict": (),
    "set_net_state_dict": ({},),
    "get_params": (),
    "set_params": ({"model_state_dict": {}},),
    "set_train": (),
    "set_eval": (),
    "send_to": ("cpu",),
    "freeze": (),
    "freeze_all": (),
    "unfreeze": (),
    "freeze_to": (1,),
    "unfreeze_to": (1,),
    "zero_grad": (),
}


@pytest.mark.parametrize("name", CALLS)
def test_without_a_network_every_call_is_refused(name: str) -> None:
    """L-88."""
    with pytest.raises(ValueError, match="ModelWrapper has no network"):
        getattr(ModelWrapper(), name)(*CALLS[name])


def test_it_is_rebuilt_with_its_arguments(tmp_path: Path) -> None:
    """L-86, L-87: the arguments of get_model_args go into the rebuilding."""
    source = make(model=Tiny(dropout=0.5))
    source.train()
    source.save_checkpoint(tmp_path / "tiny")
    target = ClassificationTrainer(verbose=False)
    target.load_checkpoint(tmp_path / "tiny", model_class=Tiny)
    assert target.model.dropout == 0.5
    assert same(weights(source), weights(target))
    alone = Tiny()
    alone.load_checkpoint(tmp_path / "tiny.pkl")
    assert same(source.model.parameters(), alone.parameters())


def test_an_inferrer_runs_a_model() -> None:
    """L-101: on its device, in evaluation mode, without gradients; modes stay as they were."""
    model, inputs = tiny_model(dropout=0.9), tiny_data(4)[0]
    model.train()
    inferrer = Inferrer(model)
    outputs = inferrer.forward(inputs)
    assert model.training
    assert not outputs.requires_grad
    assert torch.equal(outputs, inferrer(inputs))
    assert outputs.device == inferrer.device == torch.device("cpu")
    elsewhere = torch.nn.Linear(4, 2, device="meta")
    assert Inferrer.of(elsewhere).device.type == "meta"
    assert elsewhere.weight.device.type == "meta"
    assert torch.equal(Inferrer.of(torch.nn.ReLU())(inputs), inputs.relu())
    with pytest.raises(ValueError, match="Inferrer has no model"):
        Inferrer().forward(inputs)


def test_an_inferrer_reads_a_checkpoint(tmp_path: Path) -> None:
    """L-101: load_model(fname, model_key='model')."""
    source = make(model=Tiny())
    source.train()
    source.save_checkpoint(tmp_path / "tiny")
    inferrer = Inferrer()
    with pytest.raises(CheckpointError, match="model_class="):
        inferrer.load_model(tmp_path / "tiny")
    inferrer.load_model(tmp_path / "tiny.pkl", model_class=Tiny)
    inputs = tiny_data(4)[0]
    assert torch.equal(inferrer(inputs), source.predict(inputs))
    with pytest.raises(CheckpointError, match="no entry 'net'"):
        inferrer.load_model(tmp_path / "tiny", model_key="net")
    named = make(model="mlp", model_arguments={"input_shape": [3], "classes": 3})
    named.save_checkpoint(tmp_path / "mlp")
    inferrer = Inferrer()
    inferrer.load_model(tmp_path / "mlp")
    assert isinstance(inferrer.model, nn.Sequential)

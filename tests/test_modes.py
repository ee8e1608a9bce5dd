"""Modes of modules are put back one by one, whatever happened."""

from contextlib import suppress

import torch
from torch import nn

from loopwright.modes import preserved_modes


def test_each_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    with suppress(KeyError), preserved_modes(model):
        model.eval()
        raise KeyError
    assert [each.training for each in model.modules()] == [True, True, False]


def test_what_is_no_module_is_let_through() -> None:
    with preserved_modes(torch.relu):
        pass

"""LSTM layers on a CPU, in a graph that is to be compiled.

PyTorch runs them by two kernels of oneDNN. TorchInductor knows these for prediction alone: it takes
what forward leaves for backward for empty, and two gradients that share memory for two tensors.
Operators of our own call the same kernels and return what they say.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor


def with_own_lstm(graph: Any) -> Any:
    """Return the graph with our operators in the place of the kernels of LSTM layers."""
    aten = torch.ops.aten
    if not hasattr(aten, "mkldnn_rnn_layer"):
        return graph
    for node in graph.graph.nodes:
        if node.target is aten.mkldnn_rnn_layer.default:
            node.target = _operators().lstm_layer.default
            workspace = node.meta["val"][3]  # none in prediction
            node.args = (*node.args, 0 if workspace is None else workspace.numel())
        elif node.target is aten.mkldnn_rnn_layer_backward.default:
            node.target = _operators().lstm_layer_backward.default
    graph.recompile()
    return graph


@cache
def _operators() -> Any:
    """Register the operators, and return the namespace that they are in."""
    aten = torch.ops.aten
    layer, backward = aten.mkldnn_rnn_layer.default, aten.mkldnn_rnn_layer_backward.default
    _define("lstm_layer", layer, _layer, _shapes_of_layer, ", int size")
    _define("lstm_layer_backward", backward, _gradients, backward)
    return torch.ops.loopwright


def _define(name: str, kernel: Any, run: Any, shapes: Any, added: str = "") -> None:
    _, _, arguments = str(kernel._schema).partition("(")
    _LIBRARY.define(f"{name}({arguments.replace(') ->', f'{added}) ->', 1)}")
    _LIBRARY.impl(name, run, "CPU")
    _LIBRARY.impl(name, shapes, "Meta")


_LIBRARY = torch.library.Library("loopwright", "FRAGMENT")


def _layer(*arguments: Any) -> tuple[Tensor, ...]:
    *others, size = arguments
    with torch.set_grad_enabled(size > 0):  # by which it knows whether to leave a workspace
        *states, workspace = torch.ops.aten.mkldnn_rnn_layer.default(*others)
    return (*states, others[0].new_empty(0, dtype=torch.uint8) if size == 0 else workspace)


def _shapes_of_layer(*arguments: Any) -> tuple[Tensor, ...]:
    *others, size = arguments
    *states, _ = torch.ops.aten.mkldnn_rnn_layer.default(*others)
    return (*states, others[0].new_empty(size, dtype=torch.uint8))


def _gradients(*arguments: Any) -> tuple[Tensor, ...]:
    gradients = list(torch.ops.aten.mkldnn_rnn_layer_backward.default(*arguments))
    gradients[4] = gradients[4].clone()  # the biases': one tensor for both
    return tuple(gradients)

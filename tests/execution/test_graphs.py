"""What is changed in a graph before it is compiled."""

from typing import Any

import pytest
import torch

from loopwright.execution.graphs import take_out_draws, with_numbers_apart
from loopwright.execution.obstacles import NotCapturableError
from loopwright.execution.torch_internals import record_operations

aten = torch.ops.aten


def correct_bias(
    weight: torch.Tensor, step: torch.Tensor, rate: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    step.add_(1)
    (correction,) = torch._foreach_pow(0.999, [step])
    torch._foreach_sub_([correction], 1)
    torch._foreach_neg_([correction])
    scaled = [weight.clone()]
    torch._foreach_div_(scaled, [correction])
    return scaled[0], weight * rate


def test_the_correction_of_a_bias_keeps_its_digits() -> None:
    """In float32 `1 - 0.999 ** 3` is off by 1e-5, and so would be each of Adam's first steps."""
    inputs = [torch.tensor([3.0, 5.0]), torch.tensor(2.0), torch.tensor(0.5)]
    graph = record_operations(correct_bias, [each.clone() for each in inputs])
    plain, _ = graph(*(each.clone() for each in inputs))
    exact = inputs[0].double() / (1 - 0.999**3)
    assert (plain / exact - 1).abs().max() > 1e-6
    scaled, product = with_numbers_apart(graph)(*inputs)
    assert (scaled / exact - 1).abs().max() < 2e-7
    assert (scaled.dtype, inputs[1].item(), product.tolist()) == (torch.float32, 3.0, [1.5, 2.5])


def test_a_number_is_in_memory_before_the_elements_that_need_it() -> None:
    """Else a compiler computes it again for each of them: half of a step, for Adam's powers."""
    inputs = [torch.ones(2), torch.tensor(2.0), torch.tensor(0.5)]
    graph = with_numbers_apart(record_operations(correct_bias, inputs))
    (division,) = (n for n in graph.graph.nodes if n.target is aten._foreach_div_.List)
    (number,) = division.args[1]
    assert number.target is aten._to_copy.default
    assert number.args[0].target is aten.as_strided.default
    (product,) = (n for n in graph.graph.nodes if n.target is aten.mul.Tensor)
    assert product.args[1].op == "placeholder", "an input is in memory as it is"


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_powers_of_other_numbers_are_left(dtype: torch.dtype) -> None:
    def function(step: torch.Tensor) -> Any:
        return (torch.pow(2.0, step),)

    step = torch.tensor(3, dtype=dtype)
    graph = with_numbers_apart(record_operations(function, [step]))
    assert "_to_copy" not in graph.code
    assert graph(step)[0].item() == 8


def test_a_number_that_is_changed_in_place_is_no_copy() -> None:
    """Adam divides the roots of all its averages at once, that of a single number among them."""

    def function(several: torch.Tensor, single: torch.Tensor) -> Any:
        roots = torch._foreach_sqrt([several, single])
        torch._foreach_div_(roots, 2.0)
        return tuple(roots)

    inputs = [torch.tensor([16.0, 64.0]), torch.tensor(36.0)]
    several, single = with_numbers_apart(record_operations(function, inputs))(*inputs)
    assert (several.tolist(), single.item()) == ([2.0, 4.0], 3.0)


def attention(dropout: float) -> Any:
    """Return a graph of attention, the kind that training on a CPU without dropout runs."""
    graph = torch.fx.Graph()
    inputs = [graph.placeholder(name) for name in ("query", "key", "value")]
    kernel = aten._scaled_dot_product_flash_attention_for_cpu.default
    graph.output((graph.call_function(kernel, (*inputs, dropout)),))
    return torch.fx.GraphModule({}, graph)


def test_attention_that_drops_nothing_draws_nothing() -> None:
    """Evaluation and prediction of transformers, and training with `dropout=0`."""
    assert take_out_draws(attention(0.0)) == []
    with pytest.raises(NotCapturableError, match="random draws that depend on values"):
        take_out_draws(attention(0.1))

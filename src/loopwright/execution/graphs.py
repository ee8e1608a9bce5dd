"""Graphs of operations: what they change, draw and depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loopwright.execution.obstacles import NotCapturableError

aten = torch.ops.aten


@dataclass(frozen=True)
class Draw:
    """Is a random draw of a step, made before its program in the order of the step."""

    fill: Callable[..., torch.Tensor]
    like: torch.Tensor | None
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def make(self) -> torch.Tensor:
        """Draw."""
        if self.like is None:
            return self.fill(*self.arguments, **self.options)
        return self.fill(self.like, *self.arguments, **self.options)


def changed_inputs(graph: Any) -> list[Any]:
    """Return the inputs that a graph changes in place, themselves or through a view."""
    owner: dict[Any, Any] = {}
    changed: dict[Any, None] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            owner[node] = node
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            if node.op == "call_function" and node.args and node.args[0] in owner:
                owner[node] = owner[node.args[0]]  # an element of a list of views
            continue
        changed |= dict.fromkeys(owner[each] for each in _written_by(node) if each in owner)
        shares = any(each.alias_info is not None for each in schema.returns)
        if shares and node.args and node.args[0] in owner:
            owner[node] = owner[node.args[0]]
    return list(changed)


def _written_by(node: Any) -> Iterator[Any]:
    """Give the inputs of a node that it changes in place."""
    schema = getattr(node.target, "_schema", None)
    for argument, value in zip(schema.arguments if schema else (), node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _nodes(value)


def _nodes(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _nodes(each)
    elif isinstance(value, torch.fx.Node):
        yield value


def guard(graph: Any, values: Sequence[int], latch: Sequence[int]) -> None:
    """Let a graph leave its inputs as they were when one of its losses or norms is not finite.

    Args:
        graph: The graph module, changed in place.
        values: Which of its outputs are the losses and the norms.
        latch: Which of its inputs are the latch on a device, its flag first; none where there is
            none. The flag is obeyed and the latch itself goes on.
    """
    nodes = graph.graph
    inputs = [node for node in nodes.nodes if node.op == "placeholder"]
    kept_on = [inputs[index] for index in latch]
    changed = [each for each in changed_inputs(graph) if each not in kept_on]
    output = next(iter(reversed(nodes.nodes)))
    first = next(node for node in nodes.nodes if node.op != "placeholder")
    with nodes.inserting_before(first):
        kept = [nodes.call_function(aten.clone.default, (each,)) for each in changed]
    with nodes.inserting_before(output):
        if kept_on:
            is_finite = nodes.call_function(aten.eq.Scalar, (kept_on[0], 0))
        else:
            total, *others = (output.args[0][index] for index in values)
            for other in others:  # a sum is finite when all that is summed is
                total = nodes.call_function(aten.add.Tensor, (total, other))
            is_finite = nodes.call_function(aten.isfinite.default, (total,))
        for each, before in zip(changed, kept, strict=True):
            value = nodes.call_function(aten.where.self, (is_finite, each, before))
            nodes.call_function(aten.copy_.default, (each, value))
    graph.recompile()


def refuse_changing_shapes(graph: Any) -> None:
    """Refuse operations whose results have a shape that depends on values.

    Raises:
        NotCapturableError: There is one.
    """
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.dynamic_output_shape not in tags or _is_index_by_numbers(node):
            continue
        raise NotCapturableError(
            f"a data-dependent shape: what {node.target} returns depends on values"
        )


def _is_index_by_numbers(node: Any) -> bool:
    if "index" not in str(node.target) or len(node.args) < 2:
        return False
    indices = [each for each in node.args[1] if each is not None]
    masks = (torch.bool, torch.uint8)
    return all(each.meta["val"].dtype not in masks for each in indices)


def lift_constants(graph: Any, index: int) -> list[torch.Tensor]:
    """Make inputs of the tensors that a graph holds itself, so that it reads what is in them.

    Args:
        graph: The graph module, changed in place.
        index: The number of inputs that come before.

    Raises:
        NotCapturableError: The graph changes one of them.
    """
    nodes = list(graph.graph.nodes)
    anchor = nodes[index]  # inputs come first
    lifted: dict[str, Any] = {}
    constants: list[torch.Tensor] = []
    for node in [each for each in nodes if each.op == "get_attr"]:
        tensor = getattr(graph, node.target)
        if not isinstance(tensor, torch.Tensor) or all(map(_copies, node.users)):
            continue  # a number written down in the step
        if node.target not in lifted:
            with graph.graph.inserting_before(anchor):
                lifted[node.target] = graph.graph.placeholder(f"constant_{len(constants)}")
            lifted[node.target].meta = dict(node.meta) | {"val": tensor.detach()}
            constants.append(tensor)
        node.replace_all_uses_with(lifted[node.target])
        graph.graph.erase_node(node)
    if any(each in lifted.values() for each in changed_inputs(graph)):
        raise NotCapturableError(
            "the step changes a tensor that is no parameter and no buffer; register it as a buffer"
        )
    graph.recompile()
    return constants


def _copies(node: Any) -> bool:
    return str(node.target).startswith(("aten.lift_fresh", "aten.lift."))


_EMPTY = ("aten.empty", "aten.new_empty")


def take_out_draws(graph: Any) -> list[Draw]:
    """Make inputs of the random draws of a graph, and return how to make them.

    Compiled code orders its draws as it likes. Made before it in the order of the step, they are
    the very draws of the step run line by line, and leave the generator where that leaves it.
    """
    draws: list[Draw] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if not _is_drawn(node):
            continue
        draws.append(_draw_of(node))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"draw_{len(draws)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return draws


def _is_drawn(node: Any) -> bool:
    """Whether a node draws; attention does not where nothing of it is dropped."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    names = [each.name for each in node.target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return "dropout_p" not in names or given.get("dropout_p", 0.0) != 0.0


def _draw_of(node: Any) -> Draw:
    sources = node.all_input_nodes
    name = str(node.target)
    is_inplace = name.split(".")[1].endswith("_")
    if not sources:
        return Draw(node.target, None, tuple(node.args), dict(node.kwargs))
    source = sources[0]
    by_shape = "_like" in name or (
        is_inplace and str(source.target).startswith(_EMPTY) and len(source.users) == 1
    )
    if len(sources) > 1 or not by_shape or source is not node.args[0]:
        raise NotCapturableError(f"random draws that depend on values ({name})")
    value = source.meta["val"]
    like = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return Draw(node.target, like, tuple(node.args[1:]), dict(node.kwargs))


def with_numbers_apart(graph: Any) -> Any:
    """Return the graph with numbers (tensors without dimensions) computed well, and once.

    Powers are taken in float64, as eager optimizers take them: Adam's `1 - beta ** step` has few
    digits left in float32. On a CPU a number is held in memory before the elements that need it,
    which is what `as_strided` asks for: a compiler would put its power into their loop.
    """
    nodes = graph.graph
    for node in list(nodes.nodes):
        if node.target in _POWERS:
            base, exponents = node.args
            with nodes.inserting_before(node):
                node.args = (base, torch.fx.map_arg(exponents, _in_float64))
        if node.op != "call_function" or all(map(_is_number, node.all_input_nodes)):
            continue
        written = set(_written_by(node))  # a copy would take the change in its place
        for number in filter(_is_computed_number, node.all_input_nodes):
            if number in written:
                continue
            with nodes.inserting_before(node):
                held = nodes.call_function(aten.as_strided.default, (number, [], []))
                kind = {"dtype": number.meta["val"].dtype}
                node.replace_input_with(number, nodes.call_function(_TO, (held,), kind))
    graph.recompile()
    return graph


_TO = aten._to_copy.default
_POWERS = (aten.pow.Scalar, aten._foreach_pow.ScalarAndTensor)


def _in_float64(node: Any) -> Any:
    value = node.meta["val"]
    if value.ndim or value.dtype != torch.float32:
        return node
    return node.graph.call_function(_TO, (node,), {"dtype": torch.float64})


def _is_number(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.ndim == 0


def _is_computed_number(node: Any) -> bool:
    is_computed = node.op == "call_function" and _is_number(node)
    return is_computed and node.meta["val"].device.type == "cpu"


def without_profiler(graph: Any) -> Any:
    """Return the graph without the marks that optimizers leave for profilers."""
    for node in reversed(list(graph.graph.nodes)):
        if "profiler" in str(node.target):
            graph.graph.erase_node(node)
    graph.recompile()
    return graph

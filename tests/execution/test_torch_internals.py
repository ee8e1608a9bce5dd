"""What is not promised by torch: each name may be missing, and so may a compiler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_data, tiny_trainer, weights

from loopwright.execution import torch_internals
from loopwright.execution.obstacles import NotCapturableError
from loopwright.execution.torch_internals import (
    compile_graph,
    find,
    num_dispatched,
    record_operations,
)


def test_a_name_that_is_missing_is_none() -> None:
    assert find("torch.fx.experimental.proxy_tensor", "make_fx") is not None
    assert find("torch.fx.experimental.proxy_tensor", "made_fx") is None
    assert find("torch.no_such_module", "anything") is None


def without(*names: str) -> Any:
    return lambda module, name: None if name in names else find(module, name)


def auto_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("loopwright.execution.auto.FEWEST_STEPS", 1)
    monkeypatch.setattr("loopwright.execution.auto.SECONDS_TO_COMPILE", (-99.0, 0.0, 0.0))
    trainer = tiny_trainer(step_mode="auto", device="cpu")
    trainer.train(tiny_data(32), 1, per_device_batch_size=8)
    return trainer


def test_without_a_tracer_a_run_stays_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_internals, "find", without("make_fx"))
    assert "no tracer" in auto_run(monkeypatch).step_report.reason


def test_without_the_flag_of_compilers_a_run_stays_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.compiler, "_is_compiling_flag")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
    trainer = auto_run(monkeypatch)
    assert trainer.step_report.choice == "eager"
    assert trainer.progress.step == 4


def test_the_flag_of_compilers_is_put_back() -> None:
    def fail(*tensors: torch.Tensor) -> Any:
        assert torch.compiler.is_compiling()
        raise RuntimeError("no")

    with pytest.raises(NotCapturableError, match="RuntimeError: no"):
        record_operations(fail, [torch.ones(1)])
    assert not torch.compiler.is_compiling()


def graph_and_inputs() -> tuple[Any, list[torch.Tensor]]:
    def step(weight: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight.add_(inputs.sum())
        return (weight * 2,)

    inputs = [torch.zeros(3), torch.ones(4)]
    return record_operations(step, [each.clone() for each in inputs]), inputs


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    [
        (),
        ("standalone_compile",),
        ("standalone_compile", "compile"),
        ("config",),
        ("valid_vec_isa_list",),
    ],
    ids=str,
)
def test_every_way_to_compile_gives_the_same(
    missing: tuple[str, ...], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_internals, "find", without(*missing))
    graph, inputs = graph_and_inputs()
    program = compile_graph(graph, inputs, cache)
    assert inputs[0].tolist() == [0, 0, 0]
    (output,) = program(*inputs)
    assert inputs[0].tolist() == [4, 4, 4]
    assert output.tolist() == [8, 8, 8]


def test_a_compiler_that_does_not_know_the_processor_is_asked_what_it_knows(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    trusted: list[Any] = []

    def compiled(graph: Any, inputs: Any) -> Any:
        trusted.append(config.cpp.vec_isa_ok)
        if config.cpp.vec_isa_ok:
            raise OSError("undefined symbol: Sleef_expf16")
        return graph

    monkeypatch.setattr(torch_internals, "_compiled", compiled)
    graph, inputs = graph_and_inputs()
    assert compile_graph(graph, inputs, cache) is graph
    assert trusted == [True, None]


def test_operations_are_counted_where_torch_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.ones(2, requires_grad=True)
    assert num_dispatched(lambda: (one * 2).sum().backward()) >= 4
    assert num_dispatched(lambda: one.detach().add(1)) == 2
    monkeypatch.setattr(torch_internals, "find", without("TorchDispatchMode"))
    ran: list[int] = []
    assert num_dispatched(lambda: ran.append(1)) == 0
    assert ran == [1]


@pytest.mark.slow
def test_without_a_compiler_a_run_stays_eager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, so that nothing compiled before is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        trainer = auto_run(monkeypatch)
    assert trainer.step_report.choice == "eager"
    assert "compiler" in trainer.step_report.reason
    assert trainer.progress.step == 4
    assert all(weight.isfinite().all() for weight in weights(trainer))


@pytest.mark.slow
def test_without_a_folder_to_write_to_it_compiles_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    graph, inputs = graph_and_inputs()
    assert compile_graph(graph, inputs, None)(*inputs)[0].tolist() == [8, 8, 8]

"""`compile`: which calls of a model run compiled, and that the model is left as it was."""

from typing import Any

import pytest
import torch
from loops import TinyModel, loader, make_loop
from tiny import tiny_data, tiny_model, tiny_trainer


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compile to a call that notes how many samples it gets."""
    sizes: list[int] = []

    def noting(graph: Any, examples: Any) -> Any:
        index = next(i for i, each in enumerate(examples) if not each.requires_grad)

        def run(*given: Any) -> Any:
            sizes.append(len(given[index]))
            return graph(*given)

        return run

    def compile(function: Any, *, dynamic: bool, options: Any) -> Any:
        return original(function, dynamic=dynamic, backend=noting)

    torch.compiler.reset()
    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    return sizes


def test_prediction_runs_compiled(calls: list[int]) -> None:
    """Before a run and after it, at once and as a stream; between batches the model is free."""
    inputs, targets = tiny_data(10)
    expected = tiny_trainer(device="cpu").predict(inputs, 4)
    trainer = tiny_trainer(step_mode="compile", device="cpu")
    model = trainer.model
    torch.testing.assert_close(trainer.predict(inputs, 4), expected)
    assert calls == [4, 4, 2]
    trainer.train((inputs, targets), 1, per_device_batch_size=5)
    assert calls == [4, 4, 2, 5, 5]
    del calls[:]
    stream = trainer.predict(inputs, 6, stream=True)
    for size in (6, 4):
        assert len(next(stream)) == size
        assert model._compiled_call_impl is None
        model(inputs)
    assert calls == [6, 4]
    assert model.training


def test_a_model_that_the_caller_compiled_keeps_its_own_call(calls: list[int]) -> None:
    model = TinyModel(0.0)
    model.compile(dynamic=False, options=None)
    own = model._compiled_call_impl
    tiny_trainer(model=model, step_mode="compile", device="cpu").predict(tiny_data(8)[0])
    assert model._compiled_call_impl is own
    assert calls == [8]


def test_a_module_of_torch_runs_compiled_with_what_hangs_on_it(calls: list[int]) -> None:
    """Two of one structure, of which one has a hook, do not use what was compiled for the other."""
    inputs = tiny_data(8)[0]
    plain, hooked = tiny_model(), tiny_model()
    hooked.register_forward_hook(lambda module, given, output: 2 * output)
    before = dict(vars(hooked))
    one, two = (
        tiny_trainer(model=each, step_mode="compile", device="cpu").predict(inputs)
        for each in (plain, hooked)
    )
    torch.testing.assert_close(two, 2 * one)
    assert calls == [8, 8]
    assert vars(hooked) == before


def test_a_loop_runs_compiled_in_training_evaluation_and_prediction(calls: list[int]) -> None:
    loop = make_loop(model=TinyModel(0.0), train=loader(8), val=loader(6), step_mode="compile")
    loop.fit(num_epochs=1)
    assert calls == [4, 4, 4, 4, 4, 2]
    del calls[:]
    loop.predict_on_validation_set()
    loop.evaluate_loss_on_train_set(force_prediction=True)
    assert calls == [4, 2, 4, 4]
    assert loop.model._compiled_call_impl is None

"""Losses and predictions of a TrainLoop: means over samples, kept while weights are the same."""

from typing import Any

import numpy as np
import pytest
import torch
from loops import TinyModel, make_loop, mean_loss, state_of
from tiny import global_states, same, tiny_data
from torch import nn

from loopwright.loop_callbacks import AbstractCallback
from loopwright.seed import set_seed
from loopwright.trainloop import (
    TrainLoop,
    TTBasicModel,
    append_concat_predictions,
    keep_list_transf,
)
from loopwright.trainloop.predictions import join_metadata

KINDS = ("train", "validation", "test")


def data(num_samples: int, batch_size: int = 4) -> list[Any]:
    inputs, targets = tiny_data(num_samples)
    return list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))


def three_loaders(**options: Any) -> Any:
    return make_loop(train=data(14), val=data(9), test=data(5), **options)


def evaluate(loop: Any, kind: str, **options: Any) -> Any:
    return getattr(loop, f"evaluate_loss_on_{kind}_set")(**options)


def predict(loop: Any, kind: str, **options: Any) -> Any:
    return getattr(loop, f"predict_on_{kind}_set")(**options)


def test_losses_are_means_over_samples() -> None:
    """A-40: batches of 4 and a ragged one; weights, modes and random states stay."""
    loop = three_loaders()
    before, states = state_of(loop), global_states()
    loop.model.layers[2].eval()
    losses = {kind: evaluate(loop, kind) for kind in KINDS}
    assert same(state_of(loop), before)
    assert global_states() == states
    assert [module.training for module in loop.model.layers] == [True, True, False, True]
    for kind, size in zip(KINDS, (14, 9, 5), strict=True):
        assert losses[kind].dtype == torch.float64
        assert losses[kind].item() == mean_loss(loop.model, data(size), loop.criterion)
        number = evaluate(loop, kind, float_dict_format=True)
        assert (type(number), number) == (float, losses[kind].item())


def test_predictions_cover_all_batches() -> None:
    """A-41, A-52."""
    loop = three_loaders()
    for kind, size in zip(KINDS, (14, 9, 5), strict=True):
        inputs, targets = tiny_data(size)
        predictions, true, metadata = predict(loop, kind)
        loop.model.eval()
        assert torch.equal(predictions, loop.model(inputs).argmax(dim=1))
        assert torch.equal(true, targets)
        assert metadata == {"rows": inputs.tolist()}


def test_predictions_can_be_collected_otherwise() -> None:
    """A-21."""

    class Words(TinyModel):
        def get_predictions(self, batch_data: Any, device: Any) -> Any:
            return [f"word {len(batch_data[0])}"], [len(batch_data[1])], None

    options = {"pred_transform_fn": keep_list_transf}
    loop = three_loaders(model=Words(), **options)
    assert loop.predict_on_test_set() == ([["word 4"], ["word 1"]], [[4], [1]], {})
    loop = three_loaders(model=Words(), collate_batch_pred_fn=append_concat_predictions, **options)
    assert loop.predict_on_test_set() == (["word 4", "word 1"], [4, 1], {})


def test_a_prediction_that_fails_leaves_the_model_as_it_was() -> None:
    def fails(*args: Any) -> Any:
        raise RuntimeError("collating failed")

    loop = three_loaders(collate_batch_pred_fn=fails)
    with pytest.raises(RuntimeError, match="collating failed") as caught:
        loop.predict_on_test_set()
    assert torch.is_grad_enabled()
    assert loop.model.training
    del caught


def test_metadata_is_joined_by_kind() -> None:
    """A-52."""
    one = {"a": [1], "b": torch.ones(1, 2), "c": np.zeros((1, 3))}
    two = {"a": [2, 3], "b": torch.ones(2, 2), "c": np.zeros((2, 3))}
    joined = join_metadata([one, two])
    assert joined["a"] == [1, 2, 3]
    assert joined["b"].shape == (3, 2)
    assert joined["c"].shape == (3, 3)
    with pytest.raises(TypeError, match="metadata 'a' is a int; expected a list"):
        join_metadata([{"a": 1}])


class Counting(TinyModel):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def get_loss_eval(self, *args: Any) -> Any:
        self.asked += 1
        return super().get_loss_eval(*args)

    def get_predictions(self, *args: Any) -> Any:
        self.asked += 1
        return super().get_predictions(*args)

    def asked_by(self, function: Any, *args: Any, **kwargs: Any) -> int:
        before = self.asked
        function(*args, **kwargs)
        return self.asked - before


@pytest.mark.parametrize("ask", [evaluate, predict], ids=["loss", "predictions"])
def test_what_is_known_is_kept_until_something_changes(ask: Any) -> None:
    """A-42: the weights, a buffer, the loader, the criterion; or the caller says so."""
    model = Counting()
    model.register_buffer("running", torch.zeros(2))
    loop = three_loaders(model=model)

    def batches() -> int:
        return model.asked_by(ask, loop, "validation")

    assert [batches(), batches()] == [3, 0]
    assert model.asked_by(ask, loop, "validation", force_prediction=True) == 3
    assert batches() == 0
    with torch.no_grad():
        model.layers[0].weight.add_(1.0)
    assert [batches(), batches()] == [3, 0]
    model.load_state_dict(model.state_dict())
    assert [batches(), batches()] == [3, 0]
    model.running += 1
    assert [batches(), batches()] == [3, 0]
    model.layers[0].weight.data = model.layers[0].weight.data.clone()
    assert [batches(), batches()] == [3, 0]
    loop.validation_loader = data(5)
    assert [batches(), batches()] == [2, 0]
    loop.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert batches() == (2 if ask is evaluate else 0)
    loop.fit(1)
    assert batches() == (0 if ask is evaluate else 2)
    loop.fit(num_iterations=5)
    assert batches() == (0 if ask is evaluate else 2)


def test_a_loss_follows_the_weights_of_its_criterion() -> None:
    """A-42."""
    loop = three_loaders()
    loop.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))
    before = loop.evaluate_loss_on_test_set()
    loop.criterion.weight[0] = 5.0
    assert loop.evaluate_loss_on_test_set() != before


def test_callers_do_not_write_into_what_is_kept() -> None:
    loop = three_loaders()
    loop.predict_on_test_set()[2]["loss"] = 1.0
    assert "loss" not in loop.predict_on_test_set()[2]


def test_callbacks_of_predictions_run_whenever_asked_for() -> None:
    """A-41, A-93."""
    calls: list[Any] = []

    class Looks(AbstractCallback):
        def on_after_batch_prediction(self, *args: Any) -> None:
            calls.append((len(args[0]), len(args[1]), len(args[2]["rows"]), args[3]))

    loop = three_loaders()
    loop.callbacks_handler.register_callbacks([Looks("looks")])
    loop.predict_on_test_set()
    assert calls == []
    loop.predict_on_test_set(execute_callbacks=True)
    loop.predict_on_train_set(execute_callbacks=True)
    assert calls[:2] == [(4, 4, 4, {"type": "test"}), (1, 1, 1, {"type": "test"})]
    assert [call[3]["type"] for call in calls[2:]] == ["train"] * 4


def test_a_loader_that_is_missing_is_named() -> None:
    loop = make_loop()
    with pytest.raises(ValueError, match="There is no test loader: .*test_loader=None"):
        loop.evaluate_loss_on_test_set()
    with pytest.raises(ValueError, match="There is no test loader"):
        loop.predict_on_test_set()
    loop.test_loader = []
    with pytest.raises(ValueError, match="gave no batches"):
        loop.evaluate_loss_on_test_set()


def test_the_batch_size_can_be_said() -> None:
    """The mean is over what the model counts, such as the words of a batch."""

    class Weighing(TTBasicModel):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def get_loss(self, batch_data: Any, criterion: Any, device: Any) -> Any:
            return self.weight * batch_data["loss"]

        def get_batch_size(self, batch_data: Any) -> int:
            return int(batch_data["count"])

    model = Weighing()
    batches = [{"loss": 2.0, "count": 1}, {"loss": 6.0, "count": 3}]
    loop = TrainLoop(model, batches, batches, None, torch.optim.SGD(model.parameters(), 0.0), None)
    loop.fit(1, grad_accumulation=2)
    assert loop.train_history["accumulated_loss"] == loop.train_history["val_loss"] == [5.0]


def test_the_first_tensor_counts_otherwise() -> None:
    model = TinyModel()
    assert model.get_batch_size({"name": "x", "ids": torch.zeros(7, 2)}) == 7
    assert model.get_batch_size(["no tensor"]) == 1


def test_metrics_join_the_history() -> None:
    """A-43."""
    loop = make_loop()
    loop.insert_metric_result_into_history("val_Accuracy", 0.5)
    loop.insert_metric_result_into_history("val_Accuracy", 0.75)
    assert loop.train_history["val_Accuracy"] == [0.5, 0.75]


def test_evaluation_inside_training_changes_nothing() -> None:
    """A-40: a loop that evaluates after every batch trains as one that never does."""

    class Evaluates(AbstractCallback):
        def on_batch_end(self) -> None:
            self.train_loop_obj.evaluate_loss_on_train_set()
            self.train_loop_obj.predict_on_validation_set()

    trained = []
    for callbacks in ([], [Evaluates("evaluates")]):
        set_seed(1)
        loop = make_loop(end_auto_eval=bool(callbacks))
        loop.fit(2, callbacks=callbacks)
        trained.append((state_of(loop), loop.train_history["accumulated_loss"]))
    assert same(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]

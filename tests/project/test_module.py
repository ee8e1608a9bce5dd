"""Networks, the wrapper that trains them, and the optimizers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from loopwright import project
from loopwright.exports import save_export
from loopwright.models import transformer_classifier
from loopwright.project.metrics import METRICS, MetricSet
from loopwright.project.module import linear

from .tiny_project import CONFIG, TinyModel, TinyPlmodel, module


def test_D_26_a_model_class_defines_its_model_when_it_is_made() -> None:
    """D-24 and D-25, too: `define_model` makes the wrapper of the four arguments."""
    model = TinyModel(CONFIG["model_config"], {"f1": True}, {"max_epochs": 3}, Path("out"))
    found = model.get_model()
    assert found is model.model
    assert found.model_config["learning_rate"] == 0.05
    assert found.metrics_config == {"f1": True}
    assert found.trainer_config == {"max_epochs": 3}
    assert found.save_path == Path("out")


def test_D_26_and_D_24_without_a_model_it_raises() -> None:
    class Forgets(project.Model):
        def define_model(self) -> None:
            pass

    with pytest.raises(ValueError, match="Forgets.define_model set no model"):
        Forgets({})
    with pytest.raises(NotImplementedError, match="Model has no define_model"):
        project.Model({})


def test_D_28_a_network_module_that_defines_nothing_raises() -> None:
    with pytest.raises(NotImplementedError, match="load_define_model"):
        project.NetworkModule({}).load_define_model()


def test_D_29_and_D_27_the_sample_network_trains() -> None:
    """The document's network over 28*28 inputs: it gives them back."""

    class Sample(project.NetworkModule):
        def load_define_model(self) -> tuple[nn.Module, None]:
            nnetwork = nn.Sequential(
                nn.Linear(28 * 28, 64),
                nn.ReLU(),
                nn.Linear(64, 3),
                nn.Linear(3, 64),
                nn.ReLU(),
                nn.Linear(64, 28 * 28),
            )
            return nnetwork, None

    class Plmodel(project.TrainingModule):
        network_module = Sample

    images = np.random.default_rng(0).random((32, 784), dtype=np.float32)
    sets = project.CustomDataset(images, images)
    settings = project.MODEL_CONFIG | {"loss_function": functional.mse_loss, "batch_size": 8}
    model = Plmodel(settings, {"mean_squared_error": True})
    trainer = project.Trainer(max_epochs=5, accelerator="cpu", enable_checkpointing=False)
    trainer.fit(model, project.DataModule(settings, sets, sets, sets))
    losses = trainer.loop.run_history.get_metric_values("val_mean_squared_error")
    assert losses[-1] < losses[0]


def test_D_29_a_pretrained_transformer_with_its_tokenizer_may_stand_there(tmp_path: Path) -> None:
    def network() -> nn.Module:
        return transformer_classifier((4,), 2, vocabulary_size=9, width=8, heads=2, layers=1)

    pretrained = network()
    save_export({"model_state_dict": pretrained.state_dict()}, tmp_path / "pretrained.pt")

    class Pretrained(project.NetworkModule):
        def load_define_model(self) -> tuple[nn.Module, project.Tokenizer]:
            model = network()
            project.load_weights(model, tmp_path / "pretrained.pt")
            return model, lambda texts: torch.tensor([[len(w) for w in t.split()] for t in texts])

    class Plmodel(project.TrainingModule):
        network_module = Pretrained

    model = Plmodel({"num_classes": 2}).eval()
    texts = project.CustomDataset(["a bb ccc dddd", "dd dd a a"], [0, 1], model.tokenizer)
    assert texts.features.tolist() == [[1, 2, 3, 4], [2, 2, 1, 1]]
    assert torch.equal(model(texts.features), pretrained.eval()(texts.features))


def test_D_23_the_loss_is_the_configured_one() -> None:
    batch = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    model = module()
    output = model.calculate_loss(batch)
    expected = functional.cross_entropy(model.network(batch[0]), batch[1])
    assert torch.equal(output["loss"], expected)
    assert output["batch_size"] == 5
    smooth = module(loss_function=lambda o, t: functional.cross_entropy(o, t, label_smoothing=0.5))
    assert smooth.calculate_loss(batch)["loss"] != expected


def test_D_74_adam_at_the_rate_with_a_linear_schedule() -> None:
    model = module(learning_rate=0.02, num_warmup_steps=2)
    optimizer = model.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    scheduler = model.configure_scheduler(optimizer, num_training_steps=6)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, [0.0, 0.01, 0.02, 0.015, 0.01, 0.005, 0.0], atol=1e-12)
    assert linear(0, warmup=0, total=4) == 1.0


@pytest.mark.parametrize("member", project.Optimizers)
def test_D_75_every_optimizer_can_be_made(member: project.Optimizers) -> None:
    optimizer = member(nn.Linear(2, 2, bias=False).parameters(), lr=0.1)
    assert type(optimizer) is getattr(torch.optim, member.value)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_D_75_none_of_torch_is_missing() -> None:
    torchs = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
    }
    assert {member.value for member in project.Optimizers} == torchs


TARGETS = np.array([0, 0, 1, 1, 1, 0, 1, 0])
PREDICTED = np.array([0, 1, 1, 1, 0, 0, 1, 1])


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_D_46_scores_are_those_of_scikit_learn(name: str, average: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(1)
    targets, predicted = draw.integers(0, 4, (2, 50))
    function = getattr(metrics, f"{name}_score")
    expected = function(targets, predicted, average=average, zero_division=0.0)
    found = METRICS[name](targets, predicted, average=average, num_classes=5)
    assert found == pytest.approx(expected, abs=1e-12)


def test_D_59_the_cells_of_two_classes_and_of_more() -> None:
    cells = METRICS["confusion_matrix"](TARGETS, PREDICTED, num_classes=2)
    assert cells == {"tp": 3, "tn": 2, "fp": 2, "fn": 1}
    three = METRICS["confusion_matrix"](
        np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1]), num_classes=3
    )
    assert three == {"tp": 2, "tn": 6, "fp": 2, "fn": 2}


def test_the_distance_of_two_normal_distributions() -> None:
    """Of N(0, 1) and N(3, 4) it is 3**2 + 1 + 4 - 2 * sqrt(4) = 10."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(200_000, 1))
    assert METRICS["frechet_distance"](values, 3 + 2 * values) == pytest.approx(10, rel=0.02)
    assert METRICS["frechet_distance"](values, values) == pytest.approx(0, abs=1e-9)


def test_metrics_of_classes_need_classes() -> None:
    with pytest.raises(ValueError, match="on precision, .* has no num_classes"):
        module(num_classes=None).make_metrics()


def test_predictions_of_another_shape_than_the_targets_are_refused() -> None:
    """Arithmetic would compare each target with each prediction."""
    metrics = MetricSet({"mean_squared_error": True}, project.MODEL_CONFIG)
    with pytest.raises(ValueError, match=r"are of shape \[3\], and targets of \[3, 1\]"):
        metrics.update(torch.zeros(3, 1), torch.zeros(3))


def test_a_class_that_is_none_of_them_is_refused() -> None:
    """In a confusion matrix of 2 by 2, class 3 for 0 would count as a hit of class 1."""
    metrics = MetricSet({"accuracy": True, "f1": True}, project.MODEL_CONFIG | {"num_classes": 2})
    metrics.update(torch.tensor([0, 1]), torch.tensor([3, 1]))
    with pytest.raises(ValueError, match=r"predictions hold classes from 1 to 3.* expected 0 to 1"):
        metrics.compute()


def test_the_module_predicts_classes_or_numbers() -> None:
    outputs = torch.tensor([[0.1, 0.7], [0.9, 0.2]])
    assert module().predictions(outputs).tolist() == [1, 0]
    assert torch.equal(TinyPlmodel({"num_classes": None}).predictions(outputs), outputs)

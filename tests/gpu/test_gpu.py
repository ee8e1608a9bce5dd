"""What only a CUDA device can show: no stalls, data on the device, precision, the same weights."""

import copy

import pytest
import torch
from torch import nn

from loopwright import Trainer
from loopwright.default_callbacks import TerminateOnNaNCallback
from loopwright.errors import OutOfMemoryError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make_data(num_samples=256):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num_samples, 16, generator=generator)
    return features, torch.randint(0, 4, (num_samples,), generator=generator)


def make_trainer(kind=Trainer, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    return kind(model, nn.CrossEntropyLoss(), optimizer, device="cuda", seed=1, **options)


class WithoutStalls(Trainer):
    """Makes torch raise at every synchronisation while batches are trained."""

    def train_epoch_start(self):
        super().train_epoch_start()
        torch.cuda.set_sync_debug_mode("error")

    def train_epoch_end(self):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("share", [0.5, 0.0], ids=["resident", "copied ahead"])
def test_no_synchronisation_between_log_points(share):
    trainer = make_trainer(WithoutStalls)
    trainer.device_memory_share = share
    try:
        trainer.train(make_data(), num_epochs=3, per_device_batch_size=16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.progress.step == 48


def test_resident_and_copied_data_give_the_same_weights():
    weights = []
    for share in (0.5, 0.0):
        trainer = make_trainer(callbacks=())
        trainer.device_memory_share = share
        torch.cuda.manual_seed(3)
        trainer.train(make_data(), num_epochs=2, per_device_batch_size=16)
        weights.append(copy.deepcopy(trainer.model.state_dict()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trains_and_predicts_in_each_precision(precision):
    trainer = make_trainer(callbacks=(), precision=precision)
    trainer.train(make_data(), num_epochs=20, per_device_batch_size=32)
    losses = trainer.run_history.get_metric_values("train_loss_epoch")
    assert losses[-1] < losses[0]
    assert trainer.predict(make_data()[0], 100).device.type == "cpu"


def poisoned_run(folder, *, optimizer, poison, **options):
    """Train with batch norm and dropout; return the trainer."""

    class Poisoned(WithoutStalls if options.pop("without_stalls", False) else Trainer):
        def calculate_train_batch_loss(self, batch):
            if poison and self.progress.micro_batch == 9:
                batch = [batch[0] * float("nan"), batch[1]]
            return super().calculate_train_batch_loss(batch)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.1), nn.Linear(32, 4))
    trainer = Poisoned(
        model,
        nn.CrossEntropyLoss(),
        optimizer(model.parameters()),
        device="cuda",
        seed=1,
        run_dir=folder / f"run-{poison}",
        **options,
    )
    limit = None if poison else 9
    try:
        trainer.train(make_data(), 2, per_device_batch_size=16, max_num_train_steps=limit)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return trainer


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.AdamW(p),
    ],
    ids=["sgd fused", "adamw fused", "adamw"],
)
def test_nothing_changes_from_the_bad_step_on(tmp_path, precision, optimizer):
    states = []
    for poison in (False, True):
        options = {"precision": precision, "callbacks": [TerminateOnNaNCallback]}
        trainer = poisoned_run(tmp_path, optimizer=optimizer, poison=poison, **options)
        state = {**trainer.model.state_dict(), "random": torch.cuda.get_rng_state()}
        for index, values in trainer.optimizer.state_dict()["state"].items():
            state |= {f"{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        states.append(copy.deepcopy(state))
    assert trainer.progress.step == 9
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_flag_is_set_and_read_without_a_stall(tmp_path):
    def optimizer(parameters):
        return torch.optim.AdamW(parameters, fused=True)

    trainer = poisoned_run(tmp_path, optimizer=optimizer, poison=True, without_stalls=True)
    assert trainer.progress.step == 9
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_a_loss_that_is_not_finite_ends_the_run():
    features, targets = make_data()
    features[100] = float("nan")
    trainer = make_trainer()
    trainer.train((features, targets), num_epochs=5, per_device_batch_size=16)
    assert trainer.progress.epochs_done == 0
    assert "nan" in trainer.stop_reason


def test_a_device_that_is_really_full_is_split():
    """Activations of 64 samples take more than the process may have; those of 32 do not."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, inputs):
            wide = self.layer(inputs)[:, :, None].expand(-1, -1, 2**20)  # 16 MiB per sample
            return torch.sin(wide).mean(2)

    def run(**options):
        torch.manual_seed(0)
        model = Wide()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = nn.CrossEntropyLoss()
        trainer = Trainer(model, loss, optimizer, callbacks=(), device="cuda", seed=1, **options)
        trainer.train(make_data(64), 1, per_device_batch_size=64)
        return trainer

    whole = run()
    del whole._loss_tracker
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1.6 * 2**30) / total)
    try:
        with pytest.raises(OutOfMemoryError, match="Micro-batch: 64 samples"):
            run()
        parts = run(on_out_of_memory="split")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert parts._splitter.num_parts > 1
    assert torch.allclose(parts.model.layer.weight, whole.model.layer.weight, rtol=1e-4)

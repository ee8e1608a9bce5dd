"""Killed in the middle of an epoch, a trainer by objective goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from loopwright.callbacks import TrainerCallback
from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.models import aae, cyclegan, dcgan, gpt, pix2pix, rnn_seq2seq, vae
from loopwright.schedulers import Triangular
from loopwright.trainers import (
    AdversarialAutoencoderTrainer, ClassificationTrainer, CycleGanTrainer, DcganTrainer,
    LanguageModelTrainer, Pix2PixTrainer, Seq2SeqTrainer, VaeTrainer,
)

kind, folder, action = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
torch.manual_seed(1 if action != "resume" else 2)
generator = torch.Generator().manual_seed(0)
x, y = torch.rand(60, 1, 4, 4, generator=generator), torch.arange(60) % 3

class Slow(TrainerCallback):
    def on_train_step_start(self, trainer, **kwargs):
        if action == "kill" and trainer.progress.epoch == 2 and trainer.progress.micro_batch == 3:
            print("now", flush=True)
            time.sleep(60)

if kind != "own":
    small = dict(discriminator_layers=1, width=2)
    images = torch.rand(2, 60, 1, 8, 8, generator=generator)
    tokens = torch.randint(1, 5, (60, 7), generator=generator)
    if kind == "vae":
        data, make, options = (x, y), VaeTrainer, {}
        model = vae([1, 4, 4], code_size=2, hidden=[8])
    elif kind == "seq2seq":
        data, make, options = (tokens, tokens.flip(1)), Seq2SeqTrainer, {"teacher_forcing": 0.5}
        model = rnn_seq2seq((7,), 5, 5, width=8, dropout=0.2)
    elif kind == "dcgan":
        data, make, options = images[0], DcganTrainer, {}
        model = dcgan([1, 8, 8], code_size=3, width=4, ema_decay=0.9)
    elif kind == "aae":
        data, make, options = images[0], AdversarialAutoencoderTrainer, {}
        model = aae([1, 8, 8], code_size=2, hidden=[8], discriminator=[8])
    elif kind == "pix2pix":
        data, make, options = tuple(images), Pix2PixTrainer, {}
        model = pix2pix([1, 8, 8], **small)
    elif kind == "cyclegan":
        data, make, options = tuple(images), CycleGanTrainer, {"pool_size": 4}
        model = cyclegan([1, 8, 8], num_blocks=1, **small)
    else:
        data, make, options = (tokens[:, :-1], tokens[:, 1:]), LanguageModelTrainer, {}
        model = gpt((6,), 5, width=8, heads=2, layers=1, dropout=0.2)
    if hasattr(model, "parameters_by_optimizer"):
        parts = model.parameters_by_optimizer()
        optimizer = {name: torch.optim.Adam(each, lr=1e-2) for name, each in parts.items()}
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    trainer = make(
        model, None, optimizer, [Slow()], seed=3,
        run_dir=folder / "run", checkpoint=CheckpointPolicy(every_steps=1), **options,
    )
    resume = "latest" if action == "resume" else None
    trainer.train(data, 3, per_device_batch_size=10, resume=resume)
else:
    class Own(ClassificationTrainer):
        def train_epoch(self):
            for batch in self.batches():
                self.train_step(batch)

    trainer = Own(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
        train_dataset=(x, y), val_dataset=(x, y), batch_size=10, num_epochs=3, seed=3,
        lr_scheduler=Triangular(lr_max=0.1, stepsize=4), save_every=1, callbacks=[Slow()],
        checkpoint_dir=str(folder), verbose=False,
    )
    if action == "resume":
        paths = [path for path in folder.glob("ck_epoch_*.ckpt")]
        newest = max(paths, key=lambda path: int(path.stem.rpartition("_")[2]))
        trainer.load_checkpoint(newest)
        assert trainer.loss_iter == 9, trainer.loss_iter
    trainer.train()
    model = trainer.model
    history = torch.tensor(trainer.get_loss_history())
    torch.save([p.detach() for p in model.parameters()] + [history], folder / "end.pt")
    sys.exit()
torch.save([p.detach() for p in model.parameters()], folder / "end.pt")
"""


def start(kind: str, folder: Path, action: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind, str(folder), action],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def run(kind: str, folder: Path, action: str) -> list[torch.Tensor]:
    process = start(kind, folder, action)
    process.communicate(timeout=100)
    assert process.returncode == 0
    tensors: list[torch.Tensor] = torch.load(folder / "end.pt", weights_only=True)
    return tensors


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize(
    "kind",
    ["own", "vae", "seq2seq", "language_model", "dcgan", "aae", "pix2pix", "cyclegan"],
)
def test_a_killed_run_goes_on_exactly(tmp_path: Path, kind: str) -> None:
    """L-04, L-35, L-52: the checkpoints of every batch survive, and the newest is gone on from."""
    process = start(kind, tmp_path / "killed", "kill")
    assert process.stdout is not None
    while (line := process.stdout.readline()) and line != "now\n":
        pass
    time.sleep(0.5)  # the last checkpoint may still be written in the background
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    assert not (tmp_path / "killed" / "end.pt").exists()
    expected = run(kind, tmp_path / "whole", "train")
    resumed = run(kind, tmp_path / "killed", "resume")
    assert all(torch.equal(a, b) for a, b in zip(expected, resumed, strict=True))

"""What a saved model holds, and an uploader that keeps what it gets."""

from pathlib import Path
from typing import Any

import torch
from loops import adam
from tiny import tiny_model


def content(**more: Any) -> dict[str, Any]:
    """Return what is saved of a tiny model after one step."""
    model = tiny_model()
    optimizer = adam(model)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "schedulers_state_dict": [{"last_epoch": 3}],
        "epoch": 4,
        "hyperparams": {"lr": 0.1, "betas": (0.9, 0.999)},
        **more,
    }


class Uploads:
    """Keeps what it was given, as bytes of that moment."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.where: tuple[Any, ...] = ()

    def upload(self, local_path: Path, remote_path: str) -> None:
        self.files[remote_path] = local_path.read_bytes()

"""Models for other programs: ONNX and `torch.export`, each seen to give what the model gives."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.checkpoint import write_aside
from loopwright.errors import LoopwrightError
from loopwright.extras import require, require_installed
from loopwright.modes import preserved_modes

NEEDED = ("onnx", "onnxscript")
"""What `export_onnx` needs."""


class ExportError(LoopwrightError):
    """Tells that an exported model does not give what the model gives."""


def export_pt2(model: nn.Module, sample: Tensor, path: str | Path) -> Path:
    """Write a model as a `torch.export` program, which `torch.export.load` reads.

    Args:
        model: the model, in any mode; it is exported for evaluation.
        sample: inputs [samples, ...]; the number of samples stays free.
        path: the file, ending in `.pt2`.

    Raises:
        ExportError: the program does not give what the model gives.
    """
    with _evaluating(model):
        program = _exported(model, _pair(sample))
        for inputs in (_pair(sample)[:1], _pair(sample)):
            _compare(path, program.module()(inputs), model(inputs))
    write_aside(Path(path), lambda aside: _save(program, aside))
    return Path(path)


def export_onnx(model: nn.Module, sample: Tensor, path: str | Path) -> Path:
    """Write a model as one ONNX file, with the input `inputs` and the output `outputs`.

    Args:
        model: the model, in any mode; it is exported for evaluation.
        sample: inputs [samples, ...]; the number of samples stays free.
        path: the file, ending in `.onnx`.

    Raises:
        ExportError: the file does not give what the model gives.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    require_installed(NEEDED, "onnx")
    path = Path(path)
    with _evaluating(model), _quietly():
        program = torch.onnx.export(
            _exported(model, _pair(sample)),
            input_names=["inputs"],
            output_names=["outputs"],
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        write_aside(path, lambda aside: program.save(str(aside), external_data=False))
        run = require("onnx.reference", "onnx").ReferenceEvaluator(str(path)).run
        for inputs in (_pair(sample)[:1], _pair(sample)):
            found = torch.from_numpy(np.asarray(run(None, {"inputs": inputs.numpy()})[0]))
            _compare(path, found, model(inputs))
    return path


def _pair(sample: Tensor) -> Tensor:
    """Return two samples: of one alone an exporter takes the number for a constant."""
    return (sample if len(sample) > 1 else sample.repeat(2, *[1] * (sample.ndim - 1)))[:2].cpu()


def _exported(model: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(
        model, (inputs,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
    )


def _save(program: torch.export.ExportedProgram, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode on the CPU, and back."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with preserved_modes(model), torch.no_grad():
        model.eval().cpu()
        try:
            yield
        finally:
            model.to(device)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to ourselves what torch and onnxscript say to each other about versions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _compare(path: str | Path, found: Any, expected: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        Path(path).unlink(missing_ok=True)
        raise ExportError(
            f"{path} was not kept: the exported model does not give what the model gives. Look for "
            "code that depends on values, or on the number of samples."
        )

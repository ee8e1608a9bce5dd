"""The step at which a run's loss was not finite: saved whole, and run again to find out where."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from loopwright.accumulation import Accumulation
from loopwright.checkpoint import read_state, take_snapshot, write_snapshot
from loopwright.device import move_to_device, tensors_in
from loopwright.errors import CheckpointError
from loopwright.events import CallbackHandler
from loopwright.finite import BadStep
from loopwright.history import LossTracker
from loopwright.loaders import close_loader
from loopwright.out_of_memory import split_batch
from loopwright.progress import Progress
from loopwright.seed import preserved_random_states, restore_random_states
from loopwright.states import check_fits, load_states
from loopwright.train_arguments import names_of
from loopwright.training_state import take_state

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

__all__ = ["Replay", "replay"]

FOLDER = "forensics"
"""Where the step lies in the folder of its run."""


def save_bad_step(trainer: Trainer, bad: BadStep, folder: Path) -> None:
    """Write the state of a trainer that stands before a bad step, and the batch of that step.

    Args:
        trainer: The trainer, stopped.
        bad: The step.
        folder: Where; it appears whole or not at all, its owner's alone to read.

    Raises:
        OSError: It cannot be written.
    """
    model = trainer.get_model(keep_torch_compile=False)
    about: dict[str, Any] = {
        "what": bad.what,
        "size": bad.size * bad.num_parts,
        "in_training": [name for name, module in model.named_modules() if module.training],
        "frozen": [name for name, each in model.named_parameters() if not each.requires_grad],
    }
    state = {**take_state(trainer), "bad": about}
    try:
        batch = bad.batches if bad.batches is not None else _made_again(trainer, bad)
        snapshot = take_snapshot({**state, "batch": batch})
    except Exception as error:  # of the data's own code, or of a type that cannot be saved
        about["lost"] = f"{type(error).__name__}: {error}"
        snapshot = take_snapshot({**state, "batch": None})
    try:
        write_snapshot(folder, snapshot, {"step": trainer.progress.step})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    os.chmod(folder, 0o700)


def _made_again(trainer: Trainer, bad: BadStep) -> list[Any]:
    """Return the micro-batches of a step, or their parts, from their positions in the epoch."""
    loader = trainer._train_dataloader
    close_loader(loader)
    with preserved_random_states():
        batches = trainer._feed.batches(trainer, loader, start=bad.micro_batch)
        whole = list(islice(batches, -(-bad.num_run // bad.num_parts)))
    parts = [part for each in whole for part in split_batch(each, bad.num_parts)]
    return parts[: bad.num_run]


@dataclass(frozen=True)
class Replay:
    """Tells what running a saved step again has shown."""

    what: str
    """What was not finite in the run, such as "the loss became nan"."""
    epoch: int
    step: int
    """Updates that were done before this one."""
    losses: tuple[float, ...]
    """The losses of the last micro-batch, this time."""
    place: Literal["output", "loss", "gradient"] | None
    """Where the first value stands that is not finite; None when all were finite."""
    module: str | None
    """The module that made it: its name in the model, and its class."""
    batch: tuple[str, ...]
    """Parts of the batch that are not finite."""
    weights: tuple[str, ...]
    """Parameters and buffers that were not finite before the step."""
    trace: str | None
    """Where the operation stands in the code whose gradient is NaN, as torch tells."""

    def __str__(self) -> str:
        lines = [f"Epoch {self.epoch}, the step after step {self.step}: {self.what}."]
        if self.batch:
            lines.append(f"The batch holds values that are not finite: {', '.join(self.batch)}.")
        if self.weights:
            names = ", ".join(self.weights)
            lines.append(
                f"The weights were not finite before the step: {names}, so a gradient of an "
                "earlier one was not. With gradient_clip_norm its norm is looked at."
            )
        if self.place == "output":
            lines.append(f"The first output that is not finite is that of {self.module}.")
        elif self.place == "loss":
            shown = ", ".join(map(str, self.losses))
            lines.append(f"The outputs of all modules are finite, and the loss is not: {shown}.")
        elif self.place == "gradient":
            lines.append(
                "All outputs and the loss are finite. The first gradient that is not is made by "
                f"{self.module}."
            )
        else:
            lines.append("Outputs, loss and gradients are finite this time.")
        return "\n".join([*lines, self.trace] if self.trace else lines)


def replay(folder: str | os.PathLike[str], trainer: Trainer) -> Replay:
    """Run the step again at which a run stopped, and find what was not finite first.

    Forward and backward run from the same weights, batch and random states, and once more in
    torch's anomaly detection where a gradient is the first; nothing is updated. The trainer keeps
    the weights from before the step.

    Args:
        folder: The folder of the run, or `forensics` in it.
        trainer: Made as the run's was: the same model, loss, optimizers and precision. Its
            callbacks are not called.

    Raises:
        CheckpointError: There is no such step, it is damaged, or it does not fit the trainer.
    """
    trainer._refuse_inside_a_run("replay")
    state = read_state(find_step(folder))
    bad = state["bad"]
    if state["batch"] is None:
        raise CheckpointError(f"The batch of the step could not be saved: {bad['lost']}")
    batch = move_to_device(state["batch"], trainer.device)
    _load(trainer, state)
    trace = None
    with preserved_random_states(), _standing_before(trainer, state), _watching(trainer) as watch:
        restore_random_states(state["random"])
        for part in batch:
            trainer._run_train_step(part)
        losses = tuple(float(tracker.loss_value) for tracker in trainer.loss_trackers)
    _load(trainer, state)
    place, module = watch.found(loss_is_finite=all(map(math.isfinite, losses)))
    if place == "gradient":
        with preserved_random_states(), _standing_before(trainer, state):
            restore_random_states(state["random"])
            trace = _trace(trainer, batch)
        _load(trainer, state)
    return Replay(
        what=bad["what"],
        epoch=state["current_epoch"],
        step=state["progress"]["step"],
        losses=losses,
        place=place,
        module=module,
        batch=tuple(_not_finite(state["batch"], "batch")),
        weights=tuple(_not_finite(state["model"], "")),
        trace=trace,
    )


def find_step(folder: str | os.PathLike[str]) -> Path:
    """Return the folder of the saved step, given it or the folder of its run.

    Raises:
        CheckpointError: There is none.
    """
    for path in (Path(folder) / FOLDER, Path(folder)):
        if path.name == FOLDER and path.is_dir():
            return path
    raise CheckpointError(
        f"{folder} holds no step to replay. Expected the folder of a run that stopped at a loss "
        f"that is not finite, which has {FOLDER}/ in it."
    )


def _load(trainer: Trainer, state: dict[str, Any]) -> None:
    then = state["settings"]["precision"]
    if then != trainer.precision:
        raise CheckpointError(
            f"The run had precision {then!r}, and this trainer has {trainer.precision!r}. Make it "
            "as the run's was."
        )
    trainer._prepare_model_and_optimizer()
    model = trainer.get_model(keep_torch_compile=False)
    check_fits(model, state["model"], "the saved model")
    check_fits(trainer.optimizer, state["optimizer"], "the saved optimizer")
    load_states(model, state["model"])
    load_states(trainer.optimizer, state["optimizer"])
    for scaler, saved in zip(trainer._scalers.values(), state["scalers"], strict=True):
        scaler.load_state_dict(saved)


class _WithoutUpdates(Accumulation):
    """Weighs losses as in the run, and never completes the update."""

    def begin(self, micro_batch: int) -> None:
        super().begin(micro_batch)
        self.completes_update = False


@contextmanager
def _standing_before(trainer: Trainer, state: dict[str, Any]) -> Iterator[None]:
    """Put a trainer where it stood in its run, without callbacks, and back."""
    before = dict(vars(trainer))
    trainer.callback_handler = CallbackHandler()
    trainer.progress = Progress(**{**state["progress"], "phase": "train"})
    trainer.model = model = trainer.get_model(keep_torch_compile=False)
    trainer._accumulation = _WithoutUpdates(state["bad"]["size"], None)
    trainer._optimizer_names = names_of(trainer.optimizer)
    trainer._loss_tracker, trainer._named_losses = LossTracker(), {}
    trainer.train_epoch_start()
    for name, module in model.named_modules():
        module.training = name in state["bad"]["in_training"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in state["bad"]["frozen"])
    try:
        yield
    finally:
        trainer._drop_gradients()
        vars(trainer).clear()
        vars(trainer).update(before)


def _trace(trainer: Trainer, batch: list[Any]) -> str | None:
    """Return what torch's anomaly detection tells about a gradient that is NaN."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with torch.autograd.set_detect_anomaly(True):
            try:
                for part in batch:
                    trainer._run_train_step(part)
            except RuntimeError as error:
                if "returned nan values" not in str(error):
                    raise
                traces = [str(each.message) for each in told if "forward call" in str(each.message)]
                return "\n".join([str(error), *traces])
    return None


class _Watch:
    """Listens to the modules of a trainer, and notes what is not finite in the order of events."""

    def __init__(self, trainer: Trainer) -> None:
        self._modules: dict[nn.Module, str] = {}
        for attribute, owner in vars(trainer).items():
            if isinstance(owner, nn.Module):
                prefix = "" if attribute == "model" else attribute
                for name, module in owner.named_modules(prefix=prefix):
                    shown = f"{name!r} ({type(module).__name__})" if name else "the model"
                    self._modules.setdefault(module, shown)
        self._output: str | None = None
        self._gradients: list[tuple[Any, bool, str]] = []
        """Which tensor, whether the module made it (or only met it), and the module."""

    def listen(self) -> list[Any]:
        """Begin, and return the handles of the hooks that it takes."""
        handles: list[Any] = []
        for module, name in self._modules.items():
            before = partial(self._before_forward, name)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._after_forward, name)))
            for each in module.parameters(recurse=False):
                if each.requires_grad:
                    handles.append(each.register_hook(self._listener(each, name, made=True)))
        return handles

    def _before_forward(self, name: str, module: nn.Module, inputs: Any, options: Any) -> None:
        for each in tensors_in((inputs, options)):
            if each.requires_grad:  # its gradient is made in this module's backward
                each.register_hook(self._listener(each, name, made=True))

    def _after_forward(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for each in tensors_in(output):
            if self._output is None and not _is_finite(each):
                self._output = name
            if each.requires_grad:
                each.register_hook(self._listener(each, name, made=False))

    def _listener(self, tensor: Tensor, name: str, *, made: bool) -> Any:
        key = (tensor.grad_fn, tensor.output_nr) if tensor.grad_fn else tensor

        def listen(gradient: Tensor) -> None:
            if not _is_finite(gradient):
                self._gradients.append((key, made, name))

        return listen

    def found(
        self, *, loss_is_finite: bool
    ) -> tuple[Literal["output", "loss", "gradient"] | None, str | None]:
        """Return where the first value was that is not finite, and which module made it."""
        if self._output is not None:
            return "output", self._output
        if not loss_is_finite:
            return "loss", None
        if not self._gradients:
            return None, None
        first = self._gradients[0][0]
        met = [(made, name) for key, made, name in self._gradients if key is first or key == first]
        makers = [name for made, name in met if made]
        return "gradient", makers[-1] if makers else f"what follows {met[0][1]}"


@contextmanager
def _watching(trainer: Trainer) -> Iterator[_Watch]:
    watch = _Watch(trainer)
    handles = watch.listen()
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _not_finite(data: Any, where: str) -> Iterator[str]:
    """Give the places in a tree where tensors hold values that are not finite, and how many."""
    if isinstance(data, Tensor):
        if num_bad := int((~data.isfinite()).sum()):
            yield f"{where} ({num_bad} of {data.numel()})"
        return
    if isinstance(data, dict):
        items: Any = data.items()
    elif isinstance(data, (list, tuple)):
        items = enumerate(data)
    else:
        return
    for key, value in items:
        yield from _not_finite(value, f"{where}.{key}" if where else str(key))

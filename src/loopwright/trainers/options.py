"""The options of a trainer that is configured by names and numbers."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.components.optimizers import build_optimizer, optimizers
from loopwright.device import Precision
from loopwright.errors import NotSupportedError
from loopwright.execution.report import StepMode
from loopwright.registry import nearest_name
from loopwright.schedulers.function_scheduler import Function
from loopwright.train_arguments import check_clipping, check_modes, check_numbers


@dataclass(kw_only=True, eq=False, repr=False)
class ClassificationOptions:
    """Holds the documented options with their defaults, and checks them."""

    num_epochs: int = 10
    """Epochs that `train` trains in all; `set_num_epochs` extends a run."""
    learning_rate: float = 1e-4
    momentum: float = 0.5
    """Given to optimizers that take a `momentum`, such as SGD and RMSprop."""
    weight_decay: float = 1e-5
    loss_function: str | Callable[..., Any] = "CrossEntropyLoss"
    """The name of a class in torch.nn, or a function of (outputs, targets): a mean over samples."""
    optim_function: str | type[torch.optim.Optimizer] = "Adam"
    """The name of a class in torch.optim, or a class of optimizers."""
    checkpoint_dir: str = "checkpoint"
    """Where checkpoints and the history are written."""
    checkpoint_name: str = "ck"
    """What their names begin with."""
    save_hist: bool = True
    """Whether the history is written after each epoch."""
    verbose: bool = True
    """Whether anything is printed."""
    print_every: int = 10
    """Batches between two lines of progress."""
    save_every: int = -1
    """Batches between two checkpoints; 0 for none, below 0 for once in an epoch."""
    save_best: bool = False
    """Whether the best model by accuracy is saved; a positive `save_every` includes it."""
    device_id: int = -1
    """N for cuda:N, below 0 for the CPU."""
    device_map: None = None
    """Not used: `device_id` says where a checkpoint is loaded to."""
    batch_size: int = 64
    val_batch_size: int = 0
    """Samples in a batch of evaluation; 0 for `batch_size`. `test_batch_size` is the same."""
    train_dataset: Any = None
    test_dataset: Any = None
    val_dataset: Any = None
    shuffle: bool = True
    """Whether training visits the samples in another order in each epoch."""
    num_workers: int = 1
    """Processes that make samples; data in memory is batched without, unless this is given."""
    drop_last: bool = True
    """Whether training leaves out a last batch that is not full; evaluation takes all samples."""
    lr_scheduler: Function | None = None
    """A schedule of the learning rate: a function of (iteration, epoch, accuracy)."""
    mtm_scheduler: Function | None = None
    """The same for the momentum."""
    stop_when_acc: float = 0.0
    """Stop after the epoch whose accuracy reaches this; 0 for never."""
    early_stop: dict[str, float] | None = None
    """`{"num_epochs": N, "improv": d}` stops when N epochs gained less than d in accuracy."""
    tb_writer: Any = None
    """Gets the scalars loss/train, loss/val, acc/val and those of the schedules."""

    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    """What a model is made with that is given, or rebuilt from a checkpoint, by its name."""
    seed: int | None = None
    """Decides the order of the data; by default the seed that torch was seeded with."""
    precision: Precision = "fp32"
    step_mode: StepMode = "eager"
    """How a step is executed: "eager", "compile", "capture" or "auto", as in `Trainer`."""
    gradient_accumulation_steps: int = 1
    gradient_clip_value: float | None = None
    gradient_clip_norm: float | None = None
    callbacks: Iterable[Any] = ()
    """Callbacks of the `Trainer` inside, in order."""
    run_dir: str | None = None
    """A folder for the run to own, with log, report and saving on signals; None for no such run."""
    checkpoint_policy: CheckpointPolicy | None = None
    """When a run with a folder saves there."""

    def __post_init__(self) -> None:
        check_numbers(
            num_epochs=self.num_epochs,
            print_every=self.print_every,
            batch_size=self.batch_size,
            val_batch_size=self.val_batch_size or None,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
        )
        check_clipping(
            gradient_clip_value=self.gradient_clip_value, gradient_clip_norm=self.gradient_clip_norm
        )
        check_modes(self.precision, self.step_mode)
        for name in ("learning_rate", "momentum", "weight_decay", "num_workers"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}; expected a number, 0 or greater.")
        if not 0 <= self.stop_when_acc <= 1:
            raise ValueError(
                f"stop_when_acc is {self.stop_when_acc!r}; expected a share of correct answers "
                "from 0 to 1."
            )
        if self.device_map is not None:
            raise NotSupportedError("device_map is not used; give device_id.")
        if self.early_stop is not None and set(self.early_stop) != {"num_epochs", "improv"}:
            raise ValueError(
                f"early_stop is {self.early_stop!r}; expected a dict with num_epochs and improv."
            )
        for name in ("lr_scheduler", "mtm_scheduler"):
            check_schedule(name, getattr(self, name))
        self.callbacks = tuple(self.callbacks)
        if self.val_batch_size == 0:
            self.val_batch_size = self.batch_size


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names of the fields.

    Raises:
        TypeError: An option is unknown, or the batch size of evaluation is given twice.
    """
    known = [each.name for each in fields(ClassificationOptions)]
    for name in options:
        if name not in known and name != "test_batch_size":
            nearest = nearest_name(name, known)
            hint = f"Did you mean {nearest!r}?" if nearest else f"Known: {', '.join(known)}."
            raise TypeError(f"{name!r} is no option of a trainer. {hint}")
    read = dict(options)
    if "test_batch_size" in read:
        if "val_batch_size" in read:
            raise TypeError("val_batch_size and test_batch_size are the same; give one.")
        read["val_batch_size"] = read.pop("test_batch_size")
    return read


def check_schedule(name: str, schedule: Any) -> None:
    """Refuse what is no function of (iteration, epoch, accuracy); None passes."""
    if schedule is None or (callable(schedule) and not hasattr(schedule, "optimizer")):
        return
    raise TypeError(
        f"{name} is a {type(schedule).__name__}; expected a function of (iteration, epoch, "
        "accuracy), such as loopwright.schedulers.Triangular()."
    )


def make_optimizer(options: ClassificationOptions, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer with the learning rate, and what else of the options it takes.

    Raises:
        ValueError: torch.optim has none of that name.
    """
    name = options.optim_function
    kind = _find(torch.optim, torch.optim.Optimizer, name, "optimizer")
    taken = inspect.signature(kind).parameters
    given = {"weight_decay": options.weight_decay, "momentum": options.momentum}
    arguments = {key: value for key, value in given.items() if key in taken}
    arguments["lr"] = options.learning_rate
    if isinstance(name, str) and name.lower() in optimizers:
        return build_optimizer(name.lower(), arguments, model.parameters())
    made: torch.optim.Optimizer = kind(model.parameters(), **arguments)
    return made


def make_loss(options: ClassificationOptions) -> Callable[..., Any]:
    """Return the loss.

    Raises:
        ValueError: torch.nn has none of that name.
    """
    name = options.loss_function
    if not isinstance(name, str):
        return name
    made: Callable[..., Any] = _find(nn, nn.Module, name, "loss")()
    return made


def name_of(part: str | Any) -> str:
    """Return the name of an optimizer or a loss, as it is stored."""
    return part if isinstance(part, str) else getattr(part, "__name__", type(part).__name__)


def _find(module: Any, base: type, name: Any, kind: str) -> Any:
    if not isinstance(name, str):
        return name
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, base) and found is not base:
        return found
    suffix = "Loss" if kind == "loss" else ""
    known = [n for n, part in vars(module).items() if isinstance(part, type) and n.endswith(suffix)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{module.__name__} has no {kind} {name!r}.{hint}")

"""What a run was started with and what follows from it, as one frozen value."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainerRunConfig:
    """Records the settings of a run and the counts derived from them.

    Counts of steps are optimizer updates. They are None where the training data has no length.
    """

    num_epochs: int | None
    """Epochs that the run is going to train: the smaller of the two limits given to `train`."""

    train_per_device_batch_size: int
    """Samples in a micro-batch of training."""

    train_dl_kwargs: dict[str, Any] | None
    """Arguments that the training loader was made with; None without one."""

    eval_per_device_batch_size: int
    """Samples in a batch of evaluation."""

    eval_dl_kwargs: dict[str, Any] | None
    """Arguments that the evaluation loader was made with; None without one."""

    gradient_accumulation_steps: int
    """Micro-batches in an update."""

    gradient_clip_value: float | None
    """Limit for each entry of a gradient; None does not clip."""

    train_total_batch_size: int
    """Samples in an update, over accumulation and processes."""

    eval_total_batch_size: int
    """Samples in a batch of evaluation over all processes."""

    num_update_steps_per_epoch: int | None
    """Updates in an epoch; 0 when nothing is trained."""

    num_local_update_steps_per_epoch: int | None
    """Updates in an epoch that one process counts."""

    max_num_train_steps: int | None
    """Updates after which the run ends."""

    is_local_process_zero: bool
    """Whether this is the first process of its machine."""

    is_world_process_zero: bool
    """Whether this is the first process of the run."""

    is_distributed: bool
    """Whether several processes take part."""

    mixed_precision: str
    """"no", "bf16" or "fp16"."""

    num_processes: int
    """Processes that take part."""

    gradient_clip_norm: float | None = None
    """Limit for the norm of the whole gradient; None does not clip."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict; loader arguments are copied one level deep.

        Samplers and generators in the loader arguments are passed on as they are, since they
        cannot be copied.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {k: dict(v) if isinstance(v, dict) else v for k, v in fields.items()}

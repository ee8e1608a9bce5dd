"""When a run saves checkpoints, and which of them it keeps."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """Says when checkpoints are saved and how many stay.

    Several conditions may be given; each saves when it is met. A run with a folder also saves when
    a signal ends it, and at its end, whatever the policy.
    """

    every_steps: int | None = None
    """Save after every so many updates of the run."""

    every_minutes: float | None = None
    """Save when this much time has passed since the save before."""

    every_epochs: int | None = None
    """Save after every so many epochs, their evaluation included."""

    keep_latest: int = 2
    """How many of the newest checkpoints stay."""

    keep_best: int = 0
    """How many of the best checkpoints stay beside them; saves after every epoch where
    `every_epochs` does not say otherwise, since that is when the metric is known."""

    watch: str = "eval_loss_epoch"
    """The metric of the run history that says what is best; read after each epoch."""

    greater_is_better: bool = False
    """Whether larger values of it are better."""

    stop_when_save_fails: bool = False
    """Whether the run ends with the error when a checkpoint or a line of the log cannot be written,
    as on a full disk, at the first step after it; else that is told, and training goes on."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_minutes", "every_epochs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; expected a positive number, or None.")
        if self.keep_latest < 1:
            raise ValueError(
                f"keep_latest is {self.keep_latest}; expected 1 or more, so that a run can go on."
            )
        if self.keep_best < 0:
            raise ValueError(f"keep_best is {self.keep_best}; expected 0 or more.")

"""The Trainer of Hugging Face's transformers: `default` settings, and `lean` with extras off.

Lean has no bar, no checkpoints, no clipping, a constant learning rate, and one log line an epoch.
"""

import torch
from clock import Clock
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from workloads import Work

VARIANTS = ("default", "lean")
LEAN = {
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_strategy": "epoch",
    "report_to": "none",
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
}


class Classifier(nn.Module):
    """The workload's model in the shape that the Trainer expects: the loss comes from the model."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.network = work.model()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the logits, after the loss where there are labels."""
        logits = self.network(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset):
    """Samples as dictionaries, for the Trainer's default collator."""

    def __init__(self, x: Tensor, labels: Tensor | None = None) -> None:
        self.x, self.labels = x, labels

    def __len__(self) -> int:
        """Counts the samples."""
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Returns one sample."""
        if self.labels is None:
            return {"x": self.x[index]}
        return {"x": self.x[index], "labels": self.labels[index]}


class Laps(TrainerCallback):
    """Ends the clock's lap with each epoch, or with the evaluation that follows it."""

    def __init__(self, clock: Clock, evaluated: bool) -> None:
        self.clock, self.evaluated = clock, evaluated

    def on_epoch_end(self, args, state, control, **kwargs) -> None:  # noqa: D102
        if not self.evaluated:
            self.clock.lap()

    def on_evaluate(self, args, state, control, metrics, **kwargs):  # noqa: D102
        self.clock.lap(metrics["eval_loss"])


def arguments(work: Work, variant: str, **more: str) -> TrainingArguments:
    """Returns the Trainer's arguments for a variant."""
    return TrainingArguments(
        output_dir="output",
        use_cpu=True,
        num_train_epochs=work.epochs,
        per_device_train_batch_size=work.batch_size,
        per_device_eval_batch_size=work.batch_size,
        **(LEAN if variant == "lean" else {}),
        **more,
    )


def train(work: Work, clock: Clock, variant: str, *, evaluated: bool = False) -> None:
    """Trains all epochs; with `evaluated`, evaluates after each."""
    model = Classifier(work)
    trainer = Trainer(
        model,
        arguments(work, variant, eval_strategy="epoch" if evaluated else "no"),
        train_dataset=Rows(work.x, work.y),
        eval_dataset=Rows(work.eval_x, work.eval_y) if evaluated else None,
        optimizers=(work.optimizer(model), None),
        callbacks=[Laps(clock, evaluated)],
    )
    trainer.train()
    if not evaluated:  # an epoch's loss is logged after its last event
        logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        clock.losses[-1] = float(logged[-1])


def evaluate(work: Work, clock: Clock, variant: str) -> None:
    """Trains and evaluates in every epoch."""
    train(work, clock, variant, evaluated=True)


def predict(work: Work, clock: Clock, variant: str) -> Tensor:
    """Returns the outputs for all samples, in order."""
    trainer = Trainer(Classifier(work), arguments(work, variant))
    for _ in range(work.epochs):
        outputs = trainer.predict(Rows(work.x)).predictions
        clock.lap()
    return torch.from_numpy(outputs)

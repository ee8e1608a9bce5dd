"""Records metrics in a subclass of the Trainer, with torchmetrics: `python examples/metrics.py`."""

import argparse
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torchmetrics import Accuracy, MetricCollection, Precision, Recall

from loopwright import Trainer, set_seed


class TrainerWithMetrics(Trainer):
    """Adds accuracy, precision and recall over all samples to each evaluation."""

    def __init__(self, num_classes: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Moved to the device by MoveModulesToDeviceCallback, which is among the defaults.
        options = {"task": "multiclass", "num_classes": num_classes, "average": "macro"}
        self.metrics = MetricCollection(
            {
                "accuracy": Accuracy(task="multiclass", num_classes=num_classes),
                "precision": Precision(**options),
                "recall": Recall(**options),
            }
        )

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        output = super().calculate_eval_batch_loss(batch)
        self.metrics.update(output["model_outputs"].argmax(dim=-1), batch[1])
        return output

    def eval_epoch_end(self) -> None:
        for name, value in self.metrics.compute().items():
            self.run_history.update_metric(name, value.item())
        self.metrics.reset()


def main() -> float:
    """Train on scikit-learn's digits and return the accuracy on a held-out fifth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="samples to use, for a quick try")
    arguments = parser.parse_args()

    digits = load_digits()
    images = torch.tensor(digits.data[: arguments.limit], dtype=torch.float32) / 16
    labels = torch.tensor(digits.target[: arguments.limit])
    held_out = torch.arange(len(labels)) % 5 == 0

    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    trainer = TrainerWithMetrics(
        num_classes=10, model=model, loss_func=nn.CrossEntropyLoss(), optimizer=optimizer
    )
    trainer.train(
        train_dataset=(images[~held_out], labels[~held_out]),
        eval_dataset=(images[held_out], labels[held_out]),
        num_epochs=arguments.epochs,
        per_device_batch_size=32,
    )
    accuracy: float = trainer.run_history.get_latest_metric("accuracy")
    print(f"accuracy: {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()

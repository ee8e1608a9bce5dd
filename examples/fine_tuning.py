"""Fine-tuning: learn the digits 0 to 4, then 5 to 9 with most of the network frozen, then all.

python examples/fine_tuning.py
"""

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from loopwright import Trainer
from loopwright.finetuning import ModelFreezer


class DigitsNetwork(nn.Module):
    """Classifies 8x8 images into five classes; has two layer groups, `features` and `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32 * 2 * 2, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores `[N, 5]` of `images[N, 1, 8, 8]`."""
        scores: torch.Tensor = self.head(self.features(images))
        return scores


def digits(first: int, limit: int | None) -> tuple[TensorDataset, TensorDataset]:
    """Return training and test data of the five digits from `first` on, labelled 0 to 4."""
    images, labels = load_digits(return_X_y=True)
    wanted = (labels >= first) & (labels < first + 5)
    inputs = torch.tensor(images[wanted] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.tensor(labels[wanted] - first)
    # Every fifth image is for testing.
    is_test = torch.arange(len(targets)) % 5 == 0
    train = TensorDataset(inputs[~is_test][:limit], targets[~is_test][:limit])
    return train, TensorDataset(inputs[is_test], targets[is_test])


def train_and_test(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    data: tuple[TensorDataset, TensorDataset],
    *,
    num_epochs: int,
    lr: float,
) -> float:
    """Train some parameters of a model and return its accuracy on the test data."""
    train, test = data
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer)
    trainer.train(train, num_epochs, eval_dataset=test, per_device_batch_size=32)
    scores = trainer.predict(test, per_device_batch_size=256)
    return (scores.argmax(dim=1) == test.tensors[1]).double().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the three stages and print what each of them reaches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each stage")
    parser.add_argument("--limit", type=int, help="use only so many training images in a stage")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = DigitsNetwork()
    low, high = digits(0, options.limit), digits(5, options.limit)

    epochs = options.epochs
    pretrained = train_and_test(model, list(model.parameters()), low, num_epochs=epochs, lr=3e-3)

    model.head = nn.Linear(model.head.in_features, 5)
    freezer = ModelFreezer(model)
    freezer.freeze()  # all but the last layer group
    head = freezer.get_trainable_parameters()
    frozen = train_and_test(model, head, high, num_epochs=epochs, lr=3e-3)

    freezer.unfreeze()
    tuned = train_and_test(model, list(model.parameters()), high, num_epochs=epochs, lr=3e-3)

    print(f"digits 0 to 4, whole network:   accuracy {pretrained:.3f}")
    print(f"digits 5 to 9, head alone:      accuracy {frozen:.3f}")
    print(f"digits 5 to 9, whole network:   accuracy {tuned:.3f}")


if __name__ == "__main__":
    main()

"""A multilayer perceptron for tables: columns of categories are embedded."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loopwright.models.base import models, require_at_least, require_share
from loopwright.models.mlp import mlp


@models.register("tabular_mlp")
def tabular_mlp(
    input_shape: Sequence[int],
    classes: int,
    categories: Sequence[int] = (),
    hidden: Sequence[int] = (200, 100),
    dropout: float = 0.1,
) -> nn.Module:
    """Make an `mlp` over numbers and embedded categories.

    A category of n values gets min(50, (n + 1) // 2) numbers (Guo and Berkhahn 2016, "Entity
    Embeddings of Categorical Variables", embed; the size is a common rule of thumb).

    Args:
        input_shape: (columns,) of a row.
        classes: outputs of the last layer.
        categories: for each column how many values it has, 0 for a number; no entry means that all
            are numbers.
        hidden: the width of each layer before the last.
        dropout: the share of values dropped after each hidden layer.

    Raises:
        ValueError: the samples are no rows, or `categories` has another length.
    """
    require_at_least(1, classes=classes)
    require_share(dropout=dropout)
    if len(input_shape) != 1 or len(categories) not in (0, input_shape[0]):
        raise ValueError(
            f"A tabular_mlp takes rows of columns with one entry of categories each; a sample has "
            f"the shape {tuple(input_shape)} and categories {len(categories)} entries."
        )
    return TabularMLP(input_shape[0], classes, categories, hidden, dropout)


class TabularMLP(nn.Module):
    """Takes rows (samples, columns), categories as their indices; gives (samples, classes)."""

    def __init__(
        self,
        columns: int,
        classes: int,
        categories: Sequence[int],
        hidden: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        sizes = list(categories) or [0] * columns
        self.embedded = [index for index, size in enumerate(sizes) if size]
        self.numeric = [index for index, size in enumerate(sizes) if not size]
        self.embeddings = nn.ModuleList(
            nn.Embedding(sizes[index], min(50, (sizes[index] + 1) // 2)) for index in self.embedded
        )
        self.norm = nn.BatchNorm1d(len(self.numeric)) if self.numeric else nn.Identity()
        width = len(self.numeric) + sum(
            each.embedding_dim for each in self.embeddings if isinstance(each, nn.Embedding)
        )
        self.mlp = mlp((width,), classes, hidden, dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Return one row of outputs for each row."""
        parts = [self.norm(rows[:, self.numeric])]
        for index, embedding in zip(self.embedded, self.embeddings, strict=True):
            parts.append(embedding(rows[:, index].long()))
        outputs: Tensor = self.mlp(torch.cat(parts, dim=1))
        return outputs

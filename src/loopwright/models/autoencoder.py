"""Networks that compress samples to a code and make samples of codes again."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from loopwright.models.base import models, require_at_least


def layers(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers of these widths, with ReLU between them."""
    made: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        made += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*made[:-1])


class Autoencoder(nn.Module):
    """Is an encoder and a decoder of fully connected layers.

    Args:
        input_shape: The shape of a sample, whose values lie between 0 and 1.
        code_size: Numbers in a code.
        hidden: The widths of the encoder's layers; the decoder has them in reverse.
    """

    def __init__(self, input_shape: Sequence[int], code_size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        width = prod(input_shape)
        self.input_shape = tuple(input_shape)
        self.code_size = code_size
        self.encoder = nn.Sequential(nn.Flatten(), layers([width, *hidden, self._encoded()]))
        self.decoder = layers([code_size, *reversed(hidden), width])

    def _encoded(self) -> int:
        return self.code_size

    def encode(self, samples: Tensor) -> Tensor:
        """Return codes [N, code_size]."""
        codes: Tensor = self.encoder(samples)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return samples of codes [N, code_size], as logits of their values."""
        logits: Tensor = self.decoder(codes).view(-1, *self.input_shape)
        return logits

    def forward(self, samples: Tensor) -> Tensor:
        """Return the logits of the reconstructed samples, of their shape."""
        return self.decode(self.encode(samples))


class VariationalAutoencoder(Autoencoder):
    """Encodes a sample as a normal distribution of codes.

    Auto-encoding variational Bayes (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114).
    """

    def _encoded(self) -> int:
        return 2 * self.code_size

    def encode_distribution(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of the codes, each [N, code_size]."""
        mean, log_variance = self.encoder(samples).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, samples: Tensor) -> Tensor:
        """Return the means of the codes, [N, code_size]."""
        return self.encode_distribution(samples)[0]

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Return the logits for one drawn code of each sample, and the codes' distribution."""
        mean, log_variance = self.encode_distribution(samples)
        codes = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(codes), mean, log_variance


@models.register("autoencoder")
def autoencoder(
    input_shape: Sequence[int], code_size: int = 32, hidden: Sequence[int] = (512, 256)
) -> Autoencoder:
    """Make an autoencoder of fully connected layers.

    Args:
        input_shape: the shape of one sample.
        code_size: numbers in a code.
        hidden: the widths of the encoder's layers; the decoder has them in reverse.
    """
    _check(code_size, hidden)
    return Autoencoder(input_shape, code_size, hidden)


@models.register("vae")
def vae(
    input_shape: Sequence[int], code_size: int = 20, hidden: Sequence[int] = (400,)
) -> VariationalAutoencoder:
    """Make a variational autoencoder of fully connected layers.

    Args:
        input_shape: the shape of one sample.
        code_size: numbers in a code.
        hidden: the widths of the encoder's layers; the decoder has them in reverse.
    """
    _check(code_size, hidden)
    return VariationalAutoencoder(input_shape, code_size, hidden)


def _check(code_size: int, hidden: Sequence[int]) -> None:
    require_at_least(1, code_size=code_size, **{f"hidden[{i}]": w for i, w in enumerate(hidden)})

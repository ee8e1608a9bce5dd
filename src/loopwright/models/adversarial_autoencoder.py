"""Autoencoders whose codes a discriminator holds to a distribution.

Makhzani et al. 2016, https://arxiv.org/abs/1511.05644.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwright.models.autoencoder import Autoencoder, layers
from loopwright.models.base import models, require_at_least
from loopwright.models.gans import OpposedNetworks


class CodeDiscriminator(nn.Sequential):
    """Gives a logit [N] of being drawn from the wanted distribution for each code.

    Args:
        code_size: Numbers in a code.
        hidden: The widths of the layers between.
    """

    def __init__(self, code_size: int, hidden: Sequence[int]) -> None:
        super().__init__(layers([code_size, *hidden, 1]), nn.Flatten(0))


class AdversarialAutoencoder(Autoencoder, OpposedNetworks):
    """Encodes samples as codes that follow a standard normal distribution.

    Args:
        input_shape: The shape of a sample, whose values lie between 0 and 1.
        code_size: Numbers in a code.
        hidden: The widths of the encoder's layers; the decoder has them in reverse.
        discriminator: The widths of the discriminator's layers.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        code_size: int,
        hidden: Sequence[int],
        discriminator: Sequence[int],
    ) -> None:
        super().__init__(input_shape, code_size, hidden)
        self.discriminator = CodeDiscriminator(code_size, discriminator)

    def parameters_by_optimizer(self) -> dict[str, list[nn.Parameter]]:
        """Return those for each phase; the encoder takes part in two."""
        encoder = list(self.encoder.parameters())
        return {
            "reconstruction": [*encoder, *self.decoder.parameters()],
            "discriminator": list(self.discriminator.parameters()),
            "regularization": encoder,
        }


class SemiSupervisedAdversarialAutoencoder(Autoencoder, OpposedNetworks):
    """Encodes a sample as its class and a style, of which either follows its distribution.

    A code is the probabilities of the classes followed by the style, [N, classes + code_size].

    Args:
        input_shape: The shape of a sample, whose values lie between 0 and 1.
        classes: How many there are.
        code_size: Numbers in a style.
        hidden: The widths of the encoder's layers; the decoder has them in reverse.
        discriminator: The widths of the layers of both discriminators.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        code_size: int,
        hidden: Sequence[int],
        discriminator: Sequence[int],
    ) -> None:
        super().__init__(input_shape, classes + code_size, hidden)
        self.classes = classes
        self.class_discriminator = CodeDiscriminator(classes, discriminator)
        self.style_discriminator = CodeDiscriminator(code_size, discriminator)

    def parameters_by_optimizer(self) -> dict[str, list[nn.Parameter]]:
        """Return those for each phase; the encoder takes part in three."""
        encoder = list(self.encoder.parameters())
        both = [self.class_discriminator, self.style_discriminator]
        return {
            "reconstruction": [*encoder, *self.decoder.parameters()],
            "discriminator": [parameter for each in both for parameter in each.parameters()],
            "regularization": encoder,
            "classification": encoder,
        }

    def encode_parts(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the classes [N, classes] and the styles [N, style_size]."""
        encoded = self.encoder(samples)
        return encoded[:, : self.classes], encoded[:, self.classes :]

    def encode(self, samples: Tensor) -> Tensor:
        """Return codes: probabilities of the classes, then styles."""
        logits, styles = self.encode_parts(samples)
        return torch.cat([logits.softmax(dim=1), styles], dim=1)

    def draw_classes(self, labels: Tensor) -> Tensor:
        """Return labels [N] as the probabilities of a code, [N, classes]."""
        weights = next(self.parameters())
        return functional.one_hot(labels, self.classes).to(weights.dtype)


@models.register("aae")
def aae(
    input_shape: Sequence[int],
    code_size: int = 8,
    hidden: Sequence[int] = (512, 256),
    discriminator: Sequence[int] = (256, 256),
) -> AdversarialAutoencoder:
    """Make an adversarial autoencoder of fully connected layers.

    Args:
        input_shape: the shape of one sample.
        code_size: numbers in a code.
        hidden: the widths of the encoder's layers; the decoder has them in reverse.
        discriminator: the widths of the discriminator's layers.
    """
    _check(code_size, hidden, discriminator)
    return AdversarialAutoencoder(input_shape, code_size, hidden, discriminator)


@models.register("semi_supervised_aae")
def semi_supervised_aae(
    input_shape: Sequence[int],
    classes: int,
    code_size: int = 8,
    hidden: Sequence[int] = (512, 256),
    discriminator: Sequence[int] = (256, 256),
) -> SemiSupervisedAdversarialAutoencoder:
    """Make an adversarial autoencoder that keeps the class apart from the style.

    Args:
        input_shape: the shape of one sample.
        classes: how many classes there are.
        code_size: numbers in a style.
        hidden: the widths of the encoder's layers; the decoder has them in reverse.
        discriminator: the widths of the layers of both discriminators.
    """
    require_at_least(2, classes=classes)
    _check(code_size, hidden, discriminator)
    return SemiSupervisedAdversarialAutoencoder(
        input_shape, classes, code_size, hidden, discriminator
    )


def _check(code_size: int, hidden: Sequence[int], discriminator: Sequence[int]) -> None:
    named = {"hidden": hidden, "discriminator": discriminator}
    widths = {f"{name}[{i}]": w for name, all_ in named.items() for i, w in enumerate(all_)}
    require_at_least(1, code_size=code_size, **widths)

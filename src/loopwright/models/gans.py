"""Networks that play against each other: one makes samples, the other tells them from real ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from loopwright.ema import ModelEma
from loopwright.models.base import image_shape, models, require_at_least, require_share

Norm = Literal["batch", "instance", "none"]
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "none": lambda width: nn.Identity(),
}


class OpposedNetworks(nn.Module, ABC):
    """Is a model whose parts are trained by optimizers of their own."""

    @abstractmethod
    def parameters_by_optimizer(self) -> dict[str, list[nn.Parameter]]:
        """Return what each optimizer trains, by the name that its trainer knows it by."""


class DcganGenerator(nn.Sequential):
    """Makes images with values from 0 to 1 of codes [N, code_size].

    Radford et al. 2016 (https://arxiv.org/abs/1511.06434), whose values lie from -1 to 1.

    Args:
        image: Channels, height and width.
        code_size: Numbers in a code.
        width: Channels of the last hidden layer; each layer before has twice as many.
    """

    def __init__(self, image: tuple[int, int, int], code_size: int, width: int) -> None:
        channels, *size = image
        widths = [width * 2**level for level in reversed(range(_halvings(size)))]
        height, breadth = (side // 2 ** len(widths) for side in size)
        made: list[nn.Module] = [
            nn.Unflatten(1, (code_size, 1, 1)),
            nn.ConvTranspose2d(code_size, widths[0], (height, breadth), bias=False),
        ]
        for before, after in pairwise(widths):
            made += [nn.BatchNorm2d(before), nn.ReLU()]
            made += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        made += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, channels, 4, 2, 1)]
        super().__init__(*made, nn.Sigmoid())
        self.apply(draw_weights)


class DcganDiscriminator(nn.Sequential):
    """Gives a logit [N] of being real for each image.

    Args:
        image: Channels, height and width.
        width: Channels of the first layer; each layer after it has twice as many.
        norm: Of the layers between the first and the last: batch as in the paper; instance or none
            where gradients are penalized, because batch norm mixes samples.
        spectral_norm: Divide the weights by their largest singular value (Miyato et al. 2018,
            https://arxiv.org/abs/1802.05957), in place of other norms.
    """

    def __init__(
        self, image: tuple[int, int, int], width: int, norm: Norm, spectral_norm: bool
    ) -> None:
        channels, *size = image
        widths = [width * 2**level for level in range(_halvings(size))]
        height, breadth = (side // 2 ** len(widths) for side in size)
        norm = "none" if spectral_norm else norm
        make_norm, has_bias = choose_norm(norm), norm == "none"  # a norm would take a bias away
        made: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            made += [nn.Conv2d(before, after, 4, 2, 1, bias=has_bias), make_norm(after)]
            made += [nn.LeakyReLU(0.2)]
        super().__init__(*made, nn.Conv2d(widths[-1], 1, (height, breadth)), nn.Flatten(0))
        self.apply(draw_weights)
        if spectral_norm:
            constrain(self)


class Dcgan(OpposedNetworks):
    """Is a generator and a discriminator of convolutions.

    Args:
        image: Channels, height and width.
        code_size: Numbers in a code.
        width: Channels of the layers next to the images.
        norm: Of the discriminator, see there.
        spectral_norm: Likewise.
        ema_decay: How much of an average of the generator's weights stays at an update; 0 without.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        code_size: int,
        width: int,
        norm: Norm,
        spectral_norm: bool,
        ema_decay: float,
    ) -> None:
        super().__init__()
        self.input_shape = image
        self.code_size = code_size
        self.generator = DcganGenerator(image, code_size, width)
        self.discriminator = DcganDiscriminator(image, width, norm, spectral_norm)
        self.average = ModelEma(self.generator, ema_decay) if ema_decay else None

    def parameters_by_optimizer(self) -> dict[str, list[nn.Parameter]]:
        """Return those of the generator and those of the discriminator."""
        names = ("generator", "discriminator")
        return {name: list(getattr(self, name).parameters()) for name in names}

    def forward(self, codes: Tensor) -> Tensor:
        """Return images of codes [N, code_size]; in evaluation those of the averaged weights."""
        if self.average is None or self.training:
            images: Tensor = self.generator(codes)
            return images
        averaged: Tensor = self.average.module(codes)
        return averaged


def draw_weights(module: nn.Module) -> None:
    """Draw the weights of a layer from N(0, 0.02), as DCGAN and its successors do."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def constrain(network: nn.Module) -> None:
    """Put spectral normalization on every convolution and linear layer of a network."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            with_spectral_norm(layer)


def choose_norm(name: str) -> Callable[[int], nn.Module]:
    """Return what makes a layer that normalizes so many channels.

    Raises:
        ValueError: There is no norm of this name.
    """
    if name not in _NORMS:
        raise ValueError(f"norm is {name!r}; expected one of {', '.join(_NORMS)}.")
    return _NORMS[name]


def _halvings(size: Sequence[int]) -> int:
    """Return how often a size can be halved until it is odd, or 4 or less."""
    count, sides = 0, list(size)
    while min(sides) > 4 and not any(side % 2 for side in sides):
        count, sides = count + 1, [side // 2 for side in sides]
    return count


@models.register("dcgan")
def dcgan(
    input_shape: Sequence[int],
    code_size: int = 64,
    width: int = 32,
    norm: Norm = "batch",
    spectral_norm: bool = False,
    ema_decay: float = 0.0,
) -> Dcgan:
    """Make a generator and a discriminator of convolutions.

    Args:
        input_shape: channels, height and width of an image, the sizes even and above 4.
        code_size: numbers in a code.
        width: channels of the layers next to the images.
        norm: of the discriminator: batch, instance or none.
        spectral_norm: divide the discriminator's weights by their largest singular value.
        ema_decay: how much of an average of the generator's weights stays at an update; 0 without.
    """
    image = image_shape("dcgan", input_shape, smallest=6)
    if not _halvings(image[1:]):
        raise ValueError(f"A dcgan takes images of even height and width; these are {image[1:]}.")
    require_at_least(1, code_size=code_size, width=width)
    require_share(ema_decay=ema_decay)
    choose_norm(norm)
    return Dcgan(image, code_size, width, norm, spectral_norm, ema_decay)

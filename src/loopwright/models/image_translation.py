"""Networks that make an image of another image, and those that judge patches of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.models.base import image_shape, models, require_at_least, require_share
from loopwright.models.gans import Norm, OpposedNetworks, choose_norm, constrain, draw_weights


class UnetLevel(nn.Module):
    """Halves an image, does what lies inside, doubles it again and puts the input beside it."""

    def __init__(
        self, channels: int, width: int, inside: nn.Module | None, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        make_norm, has_bias = choose_norm(norm), norm == "none"
        down_has_bias = has_bias or inside is None
        down = [nn.LeakyReLU(0.2), nn.Conv2d(channels, width, 4, 2, 1, bias=down_has_bias)]
        if inside is not None:
            down += [make_norm(width), inside]
        joined = width * (1 + bool(inside))
        up = [nn.ReLU(), nn.ConvTranspose2d(joined, channels, 4, 2, 1, bias=has_bias)]
        up += [make_norm(channels), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*down, *up)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images, self.layers(images)], dim=1)


class UnetGenerator(nn.Sequential):
    """Makes images of images, values from 0 to 1; each level skips to the one that undoes it.

    Isola et al. 2017 (https://arxiv.org/abs/1611.07004), appendix 6.1.1.

    Args:
        channels: Of the images that come in.
        made_channels: Of those that are made.
        width: Channels of the outermost level; each level has twice as many, up to eight times.
        num_levels: How often the size is halved.
        norm: Between the levels.
        dropout: The share that is dropped in the three innermost levels: the noise of the paper.
    """

    def __init__(
        self,
        channels: int,
        made_channels: int,
        width: int,
        num_levels: int,
        norm: Norm,
        dropout: float,
    ) -> None:
        widths = [width * min(2**level, 8) for level in range(num_levels)]
        inside: nn.Module | None = None
        for level in range(num_levels - 1, 0, -1):
            is_inner = level > max(1, num_levels - 4) or num_levels == 2
            share = dropout if is_inner else 0.0
            inside = UnetLevel(widths[level - 1], widths[level], inside, norm, share)
        super().__init__(
            nn.Conv2d(channels, width, 4, 2, 1),
            inside or nn.Identity(),
            nn.ReLU(),
            nn.ConvTranspose2d(width * (1 + bool(inside)), made_channels, 4, 2, 1),
            nn.Sigmoid(),
        )
        self.apply(draw_weights)


class ResidualBlock(nn.Module):
    """Adds two convolutions of an image to it."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        make_norm = choose_norm(norm)
        options: Any = {"padding_mode": "reflect", "bias": norm == "none"}
        half = [nn.Conv2d(width, width, 3, 1, 1, **options), make_norm(width)]
        other = [nn.Conv2d(width, width, 3, 1, 1, **options), make_norm(width)]
        self.layers = nn.Sequential(*half, nn.ReLU(), *other)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = images + self.layers(images)
        return made


class ResnetGenerator(nn.Sequential):
    """Makes images of images, values from 0 to 1, by residual blocks at a quarter of the size.

    Zhu et al. 2017 (https://arxiv.org/abs/1703.10593), appendix 7.2.

    Args:
        channels: Of the images that come in.
        made_channels: Of those that are made.
        width: Channels at the full size; twice and four times as many below.
        num_blocks: Residual blocks.
        norm: Between the layers.
    """

    def __init__(
        self, channels: int, made_channels: int, width: int, num_blocks: int, norm: Norm
    ) -> None:
        make_norm, has_bias = choose_norm(norm), norm == "none"
        first = nn.Conv2d(channels, width, 7, 1, 3, padding_mode="reflect", bias=has_bias)
        made: list[nn.Module] = [first, make_norm(width), nn.ReLU()]
        for before in (width, 2 * width):
            made += [nn.Conv2d(before, 2 * before, 3, 2, 1, bias=has_bias)]
            made += [make_norm(2 * before), nn.ReLU()]
        made += [ResidualBlock(4 * width, norm) for _ in range(num_blocks)]
        for after in (2 * width, width):
            made += [nn.ConvTranspose2d(2 * after, after, 3, 2, 1, 1, bias=has_bias)]
            made += [make_norm(after), nn.ReLU()]
        made += [nn.Conv2d(width, made_channels, 7, 1, 3, padding_mode="reflect"), nn.Sigmoid()]
        super().__init__(*made)
        self.apply(draw_weights)


class PatchDiscriminator(nn.Sequential):
    """Gives a logit of being real for each patch of an image, [N, 1, rows, columns].

    The patches overlap; three layers see 70x70 pixels each. Isola et al. 2017, appendix 6.1.2.

    Args:
        channels: Of the images.
        width: Channels of the first layer; each layer after it has twice as many, up to eight.
        num_layers: How often the size is halved; with 0 every pixel is judged on its own.
        norm: Between the layers.
        spectral_norm: Divide the weights by their largest singular value, in place of `norm`.
    """

    def __init__(
        self, channels: int, width: int, num_layers: int, norm: Norm, spectral_norm: bool = False
    ) -> None:
        norm = "none" if spectral_norm else norm
        make_norm, has_bias = choose_norm(norm), norm == "none"
        widths = [width * min(2**level, 8) for level in range(num_layers + 1)]
        kernel, stride, padding = (4, 2, 1) if num_layers else (1, 1, 0)
        made: list[nn.Module] = [nn.Conv2d(channels, width, kernel, stride, padding)]
        if not num_layers:
            widths.append(2 * width)
        for index, after in enumerate(widths[1:], 1):
            if index == num_layers:
                stride = 1
            made += [nn.LeakyReLU(0.2)]
            made += [nn.Conv2d(widths[index - 1], after, kernel, stride, padding, bias=has_bias)]
            made += [make_norm(after)]
        made += [nn.LeakyReLU(0.2), nn.Conv2d(widths[-1], 1, kernel, 1, padding)]
        super().__init__(*made)
        self.apply(draw_weights)
        if spectral_norm:
            constrain(self)


class Pix2Pix(OpposedNetworks):
    """Is a U-net and a discriminator that sees what it was given beside what it made.

    Args:
        generator: Makes images of images.
        discriminator: Gives logits of both, joined along the channels.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def parameters_by_optimizer(self) -> dict[str, list[nn.Parameter]]:
        """Return those of the generator and those of the discriminator."""
        names = ("generator", "discriminator")
        return {name: list(getattr(self, name).parameters()) for name in names}

    def forward(self, sources: Tensor) -> Tensor:
        """Return the images that the generator makes of sources."""
        made: Tensor = self.generator(sources)
        return made


class CycleGan(OpposedNetworks):
    """Is a generator each way between two kinds of images, and a discriminator of each kind.

    Args:
        a_to_b: Makes images of the second kind of those of the first.
        b_to_a: The other way.
        discriminator_a: Judges images of the first kind.
        discriminator_b: Judges those of the second.
        image: Channels, height and width of both kinds.
    """

    def __init__(
        self,
        a_to_b: nn.Module,
        b_to_a: nn.Module,
        discriminator_a: nn.Module,
        discriminator_b: nn.Module,
        image: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.a_to_b, self.b_to_a = a_to_b, b_to_a
        self.discriminator_a, self.discriminator_b = discriminator_a, discriminator_b
        self.input_shape = image

    def parameters_by_optimizer(self) -> dict[str, list[nn.Parameter]]:
        """Return those of both generators and those of both discriminators."""
        pairs = {
            "generators": (self.a_to_b, self.b_to_a),
            "discriminators": (self.discriminator_a, self.discriminator_b),
        }
        return {
            name: [parameter for network in pair for parameter in network.parameters()]
            for name, pair in pairs.items()
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return images of the second kind, of those of the first."""
        made: Tensor = self.a_to_b(images)
        return made


@models.register("pix2pix")
def pix2pix(
    input_shape: Sequence[int],
    width: int = 64,
    num_levels: int | None = None,
    discriminator_layers: int = 3,
    norm: Norm = "batch",
    dropout: float = 0.5,
    spectral_norm: bool = False,
    target_channels: int | None = None,
) -> Pix2Pix:
    """Make a U-net and the discriminator of its patches.

    Args:
        input_shape: channels, height and width of the images that come in.
        width: channels of the outermost layers.
        num_levels: how often the U-net halves the size; as often as it can, up to 8 times.
        discriminator_layers: how often the discriminator halves it; 0 judges single pixels.
        norm: batch, instance or none.
        dropout: the share that the three innermost levels of the U-net drop.
        spectral_norm: divide the discriminator's weights by their largest singular value.
        target_channels: those of the images to make, where they differ.
    """
    channels, height, breadth = image_shape("pix2pix", input_shape, smallest=8)
    possible = max(n for n in range(9) if height % 2**n == breadth % 2**n == 0)
    levels = possible if num_levels is None else num_levels
    require_at_least(1, width=width, num_levels=levels)
    require_at_least(0, discriminator_layers=discriminator_layers)
    require_share(dropout=dropout)
    if levels > possible:
        raise ValueError(
            f"num_levels is {levels}; images of {height}x{breadth} can be halved {possible} times."
        )
    _check_patches("pix2pix", min(height, breadth), discriminator_layers)
    made = channels if target_channels is None else target_channels
    return Pix2Pix(
        UnetGenerator(channels, made, width, levels, norm, dropout),
        PatchDiscriminator(channels + made, width, discriminator_layers, norm, spectral_norm),
    )


@models.register("cyclegan")
def cyclegan(
    input_shape: Sequence[int],
    width: int = 64,
    num_blocks: int = 9,
    discriminator_layers: int = 3,
    norm: Norm = "instance",
    spectral_norm: bool = False,
) -> CycleGan:
    """Make two generators of residual blocks and two discriminators of patches.

    Args:
        input_shape: channels, height and width of the images of both kinds.
        width: channels of the outermost layers.
        num_blocks: residual blocks of a generator; 9 for images of 256x256, 6 for smaller ones.
        discriminator_layers: how often a discriminator halves the size; 0 judges single pixels.
        norm: batch, instance or none.
        spectral_norm: divide the discriminators' weights by their largest singular value.
    """
    image = image_shape("cyclegan", input_shape, smallest=8)
    if any(side % 4 for side in image[1:]):
        raise ValueError(f"A cyclegan takes sizes that 4 divides; these are {image[1:]}.")
    require_at_least(1, width=width, num_blocks=num_blocks)
    require_at_least(0, discriminator_layers=discriminator_layers)
    _check_patches("cyclegan", min(image[1:]), discriminator_layers)
    channels = image[0]
    return CycleGan(
        ResnetGenerator(channels, channels, width, num_blocks, norm),
        ResnetGenerator(channels, channels, width, num_blocks, norm),
        PatchDiscriminator(channels, width, discriminator_layers, norm, spectral_norm),
        PatchDiscriminator(channels, width, discriminator_layers, norm, spectral_norm),
        image,
    )


def _check_patches(model: str, size: int, num_layers: int) -> None:
    if num_layers and size // 2**num_layers < 3:
        raise ValueError(
            f"The discriminator of a {model} halves the size discriminator_layers={num_layers} "
            f"times and wants 3 pixels after that; these images have {size}. Give fewer."
        )

"""The networks of trainers that play: their sizes, their parts, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import nn

from loopwright.models import PatchDiscriminator, UnetGenerator, cyclegan, dcgan, models, pix2pix


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 32, 32), (1, 8, 12), (3, 64, 48)])
def test_a_dcgan_fits_the_images(size: tuple[int, int, int]) -> None:
    model = dcgan(size, code_size=5, width=2)
    made = model(torch.randn(3, 5))
    assert made.shape == (3, *size)
    assert ((made >= 0) & (made <= 1)).all()
    assert model.discriminator(made).shape == (3,)
    parts = model.parameters_by_optimizer()
    assert sorted(parts) == ["discriminator", "generator"]
    assert sum(map(len, parts.values())) == len(list(model.parameters()))


def test_the_weights_are_drawn_as_the_paper_says() -> None:
    """Normal with deviation 0.02 in convolutions, and about 1 in norms."""
    torch.manual_seed(1)
    for layer in dcgan([3, 32, 32], width=16).modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
        elif isinstance(layer, nn.BatchNorm2d):
            assert float(layer.weight.detach().mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("layers", "field"), [(0, 1), (1, 16), (2, 34), (3, 70)])
def test_a_patch_is_as_large_as_the_paper_says(layers: int, field: int) -> None:
    """70x70 with three layers, and 1x1 with none: no pixel outside changes a logit."""
    judge = PatchDiscriminator(1, 1, layers, "none").double()
    image = torch.rand(1, 1, 192, 192, dtype=torch.float64, requires_grad=True)
    logits = judge(image)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(dim=1).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == field


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 28, 28), (2, 32, 16)])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_images_are_made_of_images(size: tuple[int, int, int], norm: Any) -> None:
    options: dict[str, Any] = {"width": 2, "discriminator_layers": 1, "norm": norm}
    sources = torch.rand(2, *size)
    made = pix2pix(size, target_channels=4, **options)(sources)
    assert made.shape == (2, 4, *size[1:])
    model = cyclegan(size, num_blocks=1, **options)
    assert model.b_to_a(model.a_to_b(sources)).shape == sources.shape
    assert model.discriminator_a(sources).ndim == 4
    parts = model.parameters_by_optimizer()
    assert sum(map(len, parts.values())) == len(list(model.parameters()))


def test_a_skip_brings_the_input_of_a_level_to_its_output() -> None:
    """With the way through the inner levels cut, what is made still depends on the image."""
    model = pix2pix([1, 8, 8], width=2, discriminator_layers=1, norm="none").eval()
    for layer in list(model.generator.modules())[2:]:
        if isinstance(layer, nn.ConvTranspose2d) and layer is not model.generator[-2]:
            nn.init.zeros_(layer.weight)
    made = model(torch.rand(2, 1, 8, 8))
    assert not torch.equal(made[0], made[1])
    nn.init.zeros_(model.generator[-2].weight)
    made = model(torch.rand(2, 1, 8, 8))
    assert torch.equal(made[0], made[1])


def test_a_unet_drops_in_its_three_innermost_levels() -> None:
    """The decoder of the paper is CD512-CD512-CD512-C512-C256-C128-C64, from the inside out."""
    for size, expected in ((256, [0.0] * 4 + [0.5] * 3), (32, [0.0] + [0.5] * 3), (4, [0.5])):
        levels = size.bit_length() - 1
        unet = UnetGenerator(3, 3, 1, levels, "none", 0.5)
        assert [m.p for m in unet.modules() if isinstance(m, nn.Dropout)][::-1] == expected


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("dcgan", (64,), {}, "takes images of shape"),
        ("dcgan", (1, 9, 9), {}, "even height and width"),
        ("dcgan", (1, 8, 8), {"norm": "layer"}, "norm is 'layer'; expected one of batch"),
        ("dcgan", (1, 8, 8), {"code_size": 0}, "code_size is 0"),
        ("pix2pix", (1, 9, 9), {}, "num_levels is 0"),
        ("pix2pix", (1, 16, 16), {"dropout": 1.0}, "dropout is 1.0"),
        ("cyclegan", (1, 10, 10), {}, "sizes that 4 divides"),
        ("cyclegan", (1, 16, 16), {}, "discriminator_layers=3 times and wants 3 pixels"),
        ("aae", (1, 8, 8), {"discriminator": [4, 0]}, r"discriminator\[1\] is 0"),
        ("semi_supervised_aae", (1, 8, 8), {"classes": 1}, "classes is 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, size: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        models.get(name)(size, **options)

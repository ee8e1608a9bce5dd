"""Tests of each augmentor: against Pillow where it has one, and of what all promise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loopwright.augmentors import Augmentation, Augmentor, augmentors, uniform_draws
from loopwright.datasets import Array

pytest.importorskip("kornia")

PIXELS = torch.rand(6, 3, 24, 32, generator=torch.Generator().manual_seed(0)).square()
IMAGES = (PIXELS * 255).round() / 255
INFO = Array((3, 24, 32), torch.float32, value_range=(0.0, 1.0))

GRID = {"grid_width": 3, "grid_height": 4, "magnitude": 2.0}
FACTORS = {"min_factor": 0.2, "max_factor": 0.7}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "distort": GRID,
    "flip": {"top_bottom_left_right": "random"},
    "gaussian_distortion": GRID,
    "grayscale": {},
    "histogram_equalisation": {},
    "invert": {},
    "random_brightness": FACTORS,
    "random_color": FACTORS,
    "random_contrast": FACTORS,
    "random_erasing": {"rectangle_area": 0.5},
    "rotate": {},
    "rotate_range": {"max_left_rotation": 20, "max_right_rotation": 10},
    "shear": {"max_shear_left": 10, "max_shear_right": 20},
    "skew": {},
    "zoom": {"min_factor": 1.2, "max_factor": 2.0},
    "zoom_ground_truth": {"min_factor": 1.2, "max_factor": 2.0},
    "zoom_random": {"percentage_area": 0.6, "randomise": True},
}


def make(name: str, probability: float = 1.0, **changes: Any) -> Augmentor:
    return augmentors.get(name)(probability=probability, **(ARGUMENTS[name] | changes))


def changed(
    name: str, images: Tensor = IMAGES, draw: float | None = None, **changes: Any
) -> Tensor:
    """Return all images changed, with draws of their own or one draw for everything."""
    step = make(name, **changes)
    draws = uniform_draws(0, 1, torch.arange(len(images)), step.num_draws)
    return step.apply(images, draws if draw is None else torch.full_like(draws, draw))


def test_all_that_gymnos_ships_is_there() -> None:
    assert set(augmentors) == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_pure_function_of_the_image_and_its_draws(name: str) -> None:
    """The batch around a sample plays no part, the input stays, and values stay in range."""
    step = make(name)
    draws = uniform_draws(0, 1, torch.arange(6), step.num_draws)
    before = IMAGES.clone()
    whole = step.apply(IMAGES, draws)
    assert torch.equal(before, IMAGES)
    assert whole.shape == IMAGES.shape
    assert not torch.equal(whole, IMAGES)
    assert float(whole.min()) >= -1e-5
    assert float(whole.max()) <= 1 + 1e-5
    for i in range(6):
        alone = step.apply(IMAGES[i : i + 1], draws[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-5, atol=1e-5)
    if step.num_draws:
        other = step.apply(IMAGES, uniform_draws(0, 2, torch.arange(6), step.num_draws))
        assert not torch.equal(other, whole)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_G_16_an_image_is_changed_when_its_draw_is_below_the_probability(name: str) -> None:
    step = make(name, probability=0.5)
    draws = uniform_draws(0, 1, torch.arange(6), 1 + step.num_draws)
    draws[:, 0] = torch.tensor([0.0, 0.49, 0.5, 0.51, 0.99, 0.3])
    result, chosen = step.augment(IMAGES, draws)
    assert chosen.tolist() == [True, True, False, False, False, True]
    assert torch.equal(result[2:5], IMAGES[2:5])
    torch.testing.assert_close(result[:2], step.apply(IMAGES, draws[:, 1:])[:2])


def test_G_76_a_single_image_and_its_own_draws() -> None:
    step = make("random_brightness", probability=0.5)
    found = [step.transform(IMAGES[0], epoch=epoch) for epoch in range(40)]
    unchanged = [torch.equal(image, IMAGES[0]) for image in found]
    assert 8 < sum(unchanged) < 32
    assert torch.equal(found[3], step.transform(IMAGES[0], epoch=3))
    with pytest.raises(ValueError, match=r"probability is 1.5, expected 0 to 1"):
        make("invert", probability=1.5)


def as_pillow(image: Tensor) -> Any:
    pillow = pytest.importorskip("PIL.Image")
    return pillow.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def close_to_pillow(found: Tensor, expected: list[Any], levels: float) -> None:
    pixels = np.stack([np.asarray(image) for image in expected]).transpose(0, 3, 1, 2)
    assert np.abs(found.numpy() * 255 - pixels).max() <= levels


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("random_color", "Color"),
        ("random_brightness", "Brightness"),
        ("random_contrast", "Contrast"),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.6])
def test_factors_do_what_pillow_s_enhancers_do(name: str, kind: str, factor: float) -> None:
    enhance = getattr(pytest.importorskip("PIL.ImageEnhance"), kind)
    found = changed(name, min_factor=factor, max_factor=factor)
    expected = [enhance(as_pillow(image)).enhance(factor) for image in IMAGES]
    close_to_pillow(found, expected, 1.6)


def test_values_are_inverted_and_equalised_as_pillow_does() -> None:
    operations = pytest.importorskip("PIL.ImageOps")
    for name, function in (("invert", "invert"), ("histogram_equalisation", "equalize")):
        expected = [getattr(operations, function)(as_pillow(image)) for image in IMAGES]
        close_to_pillow(changed(name), expected, 1.01)
    gray = changed("grayscale")
    assert torch.equal(gray[:, 0], gray[:, 2])


def test_images_are_flipped_and_turned() -> None:
    assert torch.equal(changed("flip", top_bottom_left_right="left_right"), IMAGES.flip(3))
    assert torch.equal(changed("flip", draw=0.9), IMAGES.flip(2))
    assert torch.equal(changed("flip", draw=0.1), IMAGES.flip(3))
    square = IMAGES[:, :, :, :24]
    for rotation, quarters in ((90, 1), (180, 2), (270, 3)):
        found = changed("rotate", square, rotation=rotation)
        torch.testing.assert_close(found, torch.rot90(square, quarters, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        changed("rotate", square, draw=0.5), square.flip(2, 3), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", ["rotate_range", "shear", "skew", "zoom", "zoom_random"])
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.999])
def test_no_corner_is_left_empty(name: str, draw: float) -> None:
    white = torch.ones(4, 3, 20, 30)
    found = changed(name, white, draw=draw)
    torch.testing.assert_close(found, white, atol=1e-4, rtol=0)
    grid = []
    with pytest.MonkeyPatch.context() as patch:
        sample = torch.nn.functional.grid_sample
        patch.setattr(
            "loopwright.augmentors.geometry.functional.grid_sample",
            lambda images, where, **options: grid.append(where) or sample(images, where, **options),
        )
        changed(name, white, draw=draw)
    assert float(grid[0].abs().max()) <= 1.0 + 1e-6


def a_gradient(axis: int) -> Tensor:
    """Return an image whose values are places, from -1 to 1 along an axis."""
    size = (24, 36)[axis]
    places = (torch.arange(size) * 2 + 1) / size - 1
    return (places[:, None] if axis == 0 else places[None]).expand(1, 3, 24, 36).contiguous()


def test_a_rotation_shows_in_the_middle_what_trigonometry_says() -> None:
    down = changed("rotate_range", a_gradient(0), draw=1.0)[0, 0, 12]
    angle = torch.tensor(20.0).deg2rad()
    scale = 1 / (angle.cos() + 1.5 * angle.sin())
    slope = (down[20] - down[16]) / 4 / (2 / 36)
    assert float(slope) == pytest.approx(float(scale * angle.sin() * 36 / 24), rel=1e-3)


def test_zooms_take_the_part_that_they_say() -> None:
    across = changed("zoom", a_gradient(1), min_factor=2, max_factor=2)[0, 0, 12]
    assert float(across[0]) == pytest.approx(-0.5 + 0.5 / 36, abs=1e-4)
    assert float(across[-1]) == pytest.approx(0.5 - 0.5 / 36, abs=1e-4)
    small = changed("zoom", torch.ones(1, 3, 24, 36), min_factor=0.5, max_factor=0.5)
    assert float(small.mean()) == pytest.approx(0.25, abs=0.02)
    left = changed("zoom_random", a_gradient(1), draw=0.0, percentage_area=0.5, randomise=False)
    assert float(left[0, 0, 12, -1]) == pytest.approx(-0.5 / 36, abs=1e-4)


@pytest.mark.parametrize("kind", ["TILT", "TILT_LEFT_RIGHT", "TILT_TOP_BOTTOM", "CORNER"])
def test_a_skew_is_a_perspective(kind: str) -> None:
    """Cross ratios of four places on a line stay; lengths do not."""
    step = make("skew", skew_type=kind, magnitude=0.6)
    for choice in torch.arange(0.05, 1, 0.1):
        draws = torch.tensor([[float(choice), 0.999]])
        places = [step.apply(a_gradient(axis), draws)[0, 0] for axis in (0, 1)]
        row = torch.stack(places)[:, 12, [4, 12, 20, 32]]
        steps = [torch.dist(row[:, i], row[:, j]) for i, j in ((0, 2), (1, 3), (1, 2), (0, 3))]
        ratio = steps[0] * steps[1] / (steps[2] * steps[3])
        assert float(ratio) == pytest.approx(16 * 20 / (8 * 28), rel=2e-2)


def test_a_distortion_moves_knots_by_pixels_and_leaves_the_edge() -> None:
    image = a_gradient(1)
    moved = changed("distort", image, draw=0.999, grid_width=2, grid_height=2, magnitude=3.0)
    pixel = 2 / 36
    assert float((moved - image)[0, 0, 12, 18]) == pytest.approx(3 * pixel, rel=0.1)
    torch.testing.assert_close(moved[0, 0, 12, 0], image[0, 0, 12, 0], atol=0.5 * pixel, rtol=0)
    still = changed("distort", image, magnitude=0.0)
    torch.testing.assert_close(still, image, atol=1e-5, rtol=0)


def test_a_bell_says_where_it_is_distorted() -> None:
    image, pixel = a_gradient(1), 2 / 36
    grid = {"grid_width": 6, "grid_height": 6, "magnitude": 2.0, "draw": 0.999}
    moves = {
        place: (changed("gaussian_distortion", image, corner=place, **grid) - image)[0, 0].abs()
        for place in ("bell", "ul", "dr")
    }
    assert float(moves["bell"][12, 18]) == pytest.approx(2 * pixel, rel=0.1)
    assert float(moves["ul"][5, 7]) > 5 * float(moves["ul"][19, 29])
    assert float(moves["dr"][19, 29]) > 5 * float(moves["dr"][5, 7])
    out = changed("gaussian_distortion", image, method="out", **grid)
    assert float((out - image)[0, 0, 12, 18].abs()) < 0.2 * pixel


def test_erasing_replaces_a_rectangle_by_noise() -> None:
    image = torch.full((200, 3, 20, 20), 2.0)
    erased = (changed("random_erasing", image, rectangle_area=0.5) != 2).all(dim=1)
    rows, columns = erased.any(dim=2), erased.any(dim=1)
    assert torch.equal(erased, rows[:, :, None] & columns[:, None])
    sizes = rows.sum(dim=1).float()
    assert 1 <= float(sizes.min()) <= 3
    assert 9 <= float(sizes.max()) <= 11
    assert bool(rows[:, 0].any())
    assert bool(rows[:, -1].any())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("random_color", {"min_factor": 2, "max_factor": 1}, "min_factor is 2 and max_factor 1"),
        ("zoom", {"min_factor": 0, "max_factor": 1}, "more than 0"),
        ("zoom_random", {"percentage_area": 2}, "percentage_area is 2"),
        ("random_erasing", {"rectangle_area": 0}, "rectangle_area is 0"),
        ("rotate_range", {"max_left_rotation": 90}, "expected 0 to 45 degrees"),
        ("shear", {"max_shear_left": 60}, "expected 0 to 25 degrees"),
        ("skew", {"magnitude": 1.5}, "magnitude is 1.5"),
        ("distort", {"grid_width": 1}, "at least 2x2 tiles"),
        ("gaussian_distortion", {"sdx": 0}, "sdx is 0"),
    ],
)
def test_arguments_out_of_range_are_told(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **changes)


def test_several_run_in_order_within_the_range_of_the_images() -> None:
    low, high = (-1.0, -2.0, 0.0), (1.0, 2.0, 255.0)
    info = Array((3, 24, 32), torch.float32, value_range=(low, high))
    span = torch.tensor(high) - torch.tensor(low)
    images = IMAGES * span[:, None, None] + torch.tensor(low)[:, None, None]
    augmentation = Augmentation([make("invert", 0.5), make("flip", 0.5)], info, seed=4)
    samples = torch.arange(6)
    found = augmentation(images, samples)
    for i, image in enumerate(images):
        one = torch.flip(image, (1,)), torch.flip(image, (2,))
        inverted = [
            torch.tensor(low)[:, None, None] + torch.tensor(high)[:, None, None] - x
            for x in (image, *one)
        ]
        candidates = torch.stack([image, *one, *inverted])
        assert float((candidates - found[i]).abs().amax(dim=(1, 2, 3)).min()) < 1e-3
    assert torch.equal(augmentation(images[2:4], samples[2:4]), found[2:4])
    augmentation.epoch.fill_(2)
    assert not torch.equal(augmentation(images, samples), found)
    never = Augmentation([make("invert", 0.0), make("zoom", 0.0)], info, seed=4)
    assert torch.equal(never(images, samples), images)


@pytest.mark.parametrize(
    ("name", "info", "message"),
    [
        ("invert", Array((4,), torch.float32), "augmentors change images of the shape"),
        ("invert", Array((3, 4, 4), torch.float32), "have to know the least and the largest value"),
        ("random_color", Array((1, 4, 4), torch.float32, value_range=(0.0, 1.0)), "colour images"),
        ("grayscale", Array((1, 4, 4), torch.float32, value_range=(0.0, 1.0)), "colour images"),
    ],
)
def test_images_that_cannot_be_augmented_are_told(name: str, info: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation([make(name)], info, seed=0)


@pytest.mark.slow
def test_the_whole_pipeline_can_be_traced_into_one_graph() -> None:
    """No operation looks at a value on the host: what a captured step needs."""
    kinds = ("random_color", "rotate_range", "skew", "distort", "random_erasing")
    augmentation = Augmentation([make(kind, 0.5) for kind in kinds], INFO, seed=0)
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(augmentation)(IMAGES, torch.arange(6))
    other = torch.arange(6) + 100
    torch.testing.assert_close(traced(IMAGES, other), augmentation(IMAGES, other))

"""Augmentors that move places: every pixel is taken from where the drawn map says."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from loopwright.augmentors.base import Augmentor, augmentors

Grid = tuple[Tensor, Tensor]
"""Where each pixel is taken from: x and y, each [samples, height, width], from -1 to 1."""


def _places(images: Tensor) -> Grid:
    """Return the place of each pixel's centre, x [1, 1, width] and y [1, height, 1]."""
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=images.device) * 2 + 1) / height - 1
    return x[None, None, :].to(images.dtype), y[None, :, None].to(images.dtype)


def _taken_from(images: Tensor, grid: Grid, *, beyond: str = "border") -> Tensor:
    """Return the images with each pixel taken from its place in the grid.

    Beyond the edge are the pixels of the edge, or with "zeros" black.
    """
    shape = (len(images), *images.shape[2:])
    where = torch.stack([part.expand(shape) for part in grid], dim=-1)
    return functional.grid_sample(images, where, padding_mode=beyond, align_corners=False)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]


@augmentors.register("flip")
class Flip(Augmentor):
    """Mirrors images.

    Args:
        probability: the share of samples that are changed.
        top_bottom_left_right: left_right, top_bottom, or random, which draws one of them.
    """

    num_draws = 1

    def __init__(
        self,
        probability: float,
        top_bottom_left_right: Literal["left_right", "top_bottom", "random"] = "left_right",
    ) -> None:
        super().__init__(probability)
        self.top_bottom_left_right = top_bottom_left_right

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        if self.top_bottom_left_right == "left_right":
            return images.flip(3)
        if self.top_bottom_left_right == "top_bottom":
            return images.flip(2)
        return torch.where(draws[:, :, None, None] < 0.5, images.flip(3), images.flip(2))


@augmentors.register("rotate")
class Rotate(Augmentor):
    """Turns images by a multiple of 90 degrees against the clock; what is no square is stretched.

    Args:
        probability: the share of samples that are changed.
        rotation: 90, 180 or 270 degrees; -1 draws one of them.
    """

    num_draws = 1

    def __init__(self, probability: float, rotation: Literal[90, 180, 270, -1] = -1) -> None:
        super().__init__(probability)
        self.rotation = rotation

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        if self.rotation == -1:
            quarters = 1 + (draws[:, 0] * 3).floor()
        else:
            quarters = torch.full_like(draws[:, 0], self.rotation // 90)
        x, y = _places(images)
        cos, sin = (
            (quarters * (math.pi / 2)).cos().round(),
            (quarters * (math.pi / 2)).sin().round(),
        )
        return _taken_from(
            images, (_column(cos) * x - _column(sin) * y, _column(sin) * x + _column(cos) * y)
        )


@augmentors.register("rotate_range")
class RotateRange(Augmentor):
    """Turns images by an angle and cuts out what is left of the same shape, so no corner is empty.

    Args:
        probability: the share of samples that are changed.
        max_left_rotation: the largest angle against the clock, in degrees, up to 45.
        max_right_rotation: the largest angle with the clock, in degrees, up to 45.
    """

    num_draws = 1

    def __init__(
        self, probability: float, max_left_rotation: float, max_right_rotation: float
    ) -> None:
        super().__init__(probability)
        self.max_left_rotation = _angle(max_left_rotation, "max_left_rotation")
        self.max_right_rotation = _angle(max_right_rotation, "max_right_rotation")

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        span = self.max_left_rotation + self.max_right_rotation
        angle = (draws[:, 0] * span - self.max_right_rotation) * (math.pi / 180)
        cos, sin = _column(angle.cos()), _column(angle.sin())
        height, width = images.shape[2:]
        ratio = max(height / width, width / height)
        scale = 1.0 / (cos + ratio * sin.abs())
        x, y = _places(images)
        return _taken_from(
            images,
            (
                scale * (cos * x - sin * y * (height / width)),
                scale * (sin * x * (width / height) + cos * y),
            ),
        )


def _angle(degrees: float, name: str) -> float:
    if not 0.0 <= degrees <= 45.0:
        raise ValueError(f"{name} is {degrees}, expected 0 to 45 degrees.")
    return degrees


@augmentors.register("shear")
class Shear(Augmentor):
    """Shears images along one axis, which is drawn, and cuts the empty corners off.

    Args:
        probability: the share of samples that are changed.
        max_shear_left: the largest angle to one side, in degrees, up to 25.
        max_shear_right: the largest angle to the other side, in degrees, up to 25.
    """

    num_draws = 2

    def __init__(self, probability: float, max_shear_left: float, max_shear_right: float) -> None:
        super().__init__(probability)
        for name, angle in (("left", max_shear_left), ("right", max_shear_right)):
            if not 0.0 <= angle <= 25.0:
                raise ValueError(f"max_shear_{name} is {angle}, expected 0 to 25 degrees.")
        self.max_shear_left = max_shear_left
        self.max_shear_right = max_shear_right

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        span = self.max_shear_left + self.max_shear_right
        shear = _column(((draws[:, 0] * span - self.max_shear_right) * (math.pi / 180)).tan())
        along_x = _column(draws[:, 1] < 0.5)
        x, y = _places(images)
        keep = 1.0 - shear.abs()  # a wedge as wide as the shear is cut off
        return _taken_from(
            images,
            (
                torch.where(along_x, keep * x + shear * y, x),
                torch.where(along_x, y, keep * y + shear * x),
            ),
        )


@augmentors.register("skew")
class Skew(Augmentor):
    """Looks at images from the side: a quadrangle inside of the image becomes the whole.

    Args:
        probability: the share of samples that are changed.
        skew_type: TILT draws one of four sides, TILT_LEFT_RIGHT and TILT_TOP_BOTTOM one of two,
            CORNER one corner and the axis along which it moves.
        magnitude: the largest share of a side that is cut off, up to 0.9.
    """

    num_draws = 2

    def __init__(
        self,
        probability: float,
        skew_type: Literal["TILT", "TILT_LEFT_RIGHT", "TILT_TOP_BOTTOM", "CORNER"] = "TILT",
        magnitude: float = 0.5,
    ) -> None:
        super().__init__(probability)
        if not 0.0 < magnitude <= 0.9:
            raise ValueError(f"magnitude is {magnitude}, expected more than 0 and at most 0.9.")
        self.magnitude = magnitude
        self._moves = torch.tensor(_CORNER_MOVES[skew_type])
        self._square = torch.tensor(_SQUARE)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        # Moved once: a copy to the device could not be part of a captured step.
        self._moves, self._square = self._moves.to(images), self._square.to(images)
        moves, square = self._moves, self._square
        chosen = moves[(draws[:, 0] * len(moves)).long()]
        amount = draws[:, 1, None, None] * self.magnitude
        # Inwards: corners at 0 move up, those at 1 move down.
        corners = square + chosen * amount * (1 - 2 * square)
        return _taken_from(images, _perspective(images, corners))


_SQUARE = (
    (0.0, 0.0),
    (1.0, 0.0),
    (1.0, 1.0),
    (0.0, 1.0),
)  # corners as (x, y), around the image from the top left


def _moves(corners: tuple[int, ...], axis: int) -> list[list[float]]:
    share = 1 / len(corners)
    return [[share * (c in corners and a == axis) for a in (0, 1)] for c in range(4)]


_LEFT_RIGHT = [_moves((0, 3), 1), _moves((1, 2), 1)]
_TOP_BOTTOM = [_moves((0, 1), 0), _moves((2, 3), 0)]
_CORNER_MOVES = {
    "TILT": _LEFT_RIGHT + _TOP_BOTTOM,
    "TILT_LEFT_RIGHT": _LEFT_RIGHT,
    "TILT_TOP_BOTTOM": _TOP_BOTTOM,
    "CORNER": [_moves((corner,), axis) for corner in range(4) for axis in (0, 1)],
}
"""For each kind the directions to draw from: how far each corner moves along each axis."""


def _perspective(images: Tensor, corners: Tensor) -> Grid:
    """Return the map of the image onto a quadrangle, corners [samples, 4, 2] from 0 to 1.

    In closed form: Heckbert, "Fundamentals of texture mapping and image warping" (1989), 2.2.3.
    """
    first, second, third, fourth = (_pair(corners[:, i]) for i in range(4))
    dx1, dy1 = second[0] - third[0], second[1] - third[1]
    dx2, dy2 = fourth[0] - third[0], fourth[1] - third[1]
    sx = first[0] - second[0] + third[0] - fourth[0]
    sy = first[1] - second[1] + third[1] - fourth[1]
    area = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - sy * dx2) / area, (dx1 * sy - dy1 * sx) / area
    u, v = ((part + 1) / 2 for part in _places(images))
    scale = g * u + h * v + 1
    parts = []
    for axis in (0, 1):
        along_u = second[axis] - first[axis] + g * second[axis]
        along_v = fourth[axis] - first[axis] + h * fourth[axis]
        parts.append((along_u * u + along_v * v + first[axis]) / scale * 2 - 1)
    return parts[0], parts[1]


def _pair(points: Tensor) -> Grid:
    return _column(points[:, 0]), _column(points[:, 1])


@augmentors.register("zoom")
class Zoom(Augmentor):
    """Enlarges the middle of images; factors below 1 shrink them, with black around.

    Args:
        probability: the share of samples that are changed.
        min_factor: the least factor.
        max_factor: the largest factor.
    """

    num_draws = 1

    def __init__(self, probability: float, min_factor: float, max_factor: float) -> None:
        super().__init__(probability)
        if not 0.0 < min_factor <= max_factor:
            raise ValueError(
                f"min_factor is {min_factor} and max_factor {max_factor}; expected more than 0, "
                "and the first at most as large as the second."
            )
        self.min_factor = min_factor
        self.max_factor = max_factor

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        span = self.max_factor - self.min_factor
        share = _column(1.0 / (self.min_factor + draws[:, 0] * span))
        x, y = _places(images)
        beyond = "zeros" if self.min_factor < 1 else "border"
        return _taken_from(images, (share * x, share * y), beyond=beyond)


augmentors.add("zoom_ground_truth", Zoom)  # gymnos: the same for an image without a second one


@augmentors.register("zoom_random")
class ZoomRandom(Augmentor):
    """Enlarges a part of images, anywhere.

    Args:
        probability: the share of samples that are changed.
        percentage_area: the share of each side that is enlarged, from 0.1 to 1.
        randomise: whether that is the largest share, and 0.1 the least, of those that are drawn.
    """

    num_draws = 3

    def __init__(self, probability: float, percentage_area: float, randomise: bool = False) -> None:
        super().__init__(probability)
        if not 0.1 <= percentage_area <= 1.0:
            raise ValueError(f"percentage_area is {percentage_area}, expected 0.1 to 1.")
        self.percentage_area = percentage_area
        self.randomise = randomise

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        share = torch.full_like(draws[:, 0], self.percentage_area)
        if self.randomise:
            share = 0.1 + draws[:, 0] * (self.percentage_area - 0.1)
        x, y = _places(images)
        offsets = ((draws[:, 1:3] * 2 - 1) * (1 - share)[:, None]).unbind(dim=1)
        return _taken_from(
            images,
            (_column(share) * x + _column(offsets[0]), _column(share) * y + _column(offsets[1])),
        )


@augmentors.register("distort")
class Distort(Augmentor):
    """Distorts images like rubber: knots of a grid are moved, and with them what is between.

    Args:
        probability: the share of samples that are changed.
        grid_width: tiles of the grid side by side, at least 2.
        grid_height: tiles of the grid on top of each other, at least 2.
        magnitude: the largest move of a knot along an axis, in pixels.
    """

    def __init__(
        self, probability: float, grid_width: int, grid_height: int, magnitude: float
    ) -> None:
        super().__init__(probability)
        if min(grid_width, grid_height) < 2 or magnitude < 0:
            raise ValueError(
                f"A grid of {grid_width}x{grid_height} tiles and a magnitude of {magnitude}; "
                "expected at least 2x2 tiles and 0 pixels."
            )
        self.grid_width = grid_width
        self.grid_height = grid_height
        self.magnitude = magnitude
        self.num_draws = 2 * (grid_width - 1) * (grid_height - 1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        height, width = images.shape[2:]
        inner = draws.reshape(-1, 2, self.grid_height - 1, self.grid_width - 1) * 2 - 1
        knots = functional.pad(inner, (1, 1, 1, 1)) * self._surface(images)
        moves = functional.interpolate(knots, (height, width), mode="bilinear", align_corners=True)
        x, y = _places(images)
        pixels = 2.0 * self.magnitude
        return _taken_from(
            images, (x + moves[:, 0] * pixels / width, y + moves[:, 1] * pixels / height)
        )

    def _surface(self, images: Tensor) -> Tensor:
        """Return how strongly each knot is moved, [grid_height + 1, grid_width + 1] or less."""
        return torch.ones((), dtype=images.dtype, device=images.device)


@augmentors.register("gaussian_distortion")
class GaussianDistortion(Distort):
    """Distorts images like rubber, most at one place: a bell over the image or in a corner.

    Args:
        probability: the share of samples that are changed.
        grid_width: tiles of the grid side by side, at least 2.
        grid_height: tiles of the grid on top of each other, at least 2.
        magnitude: the largest move of a knot along an axis, in pixels.
        corner: bell for the middle, or ul, ur, dl, dr: up or down, left or right.
        method: in moves most at that place, out most away from it.
        mex: where the bell is highest, from left to right.
        mey: where the bell is highest, from top to bottom.
        sdx: how wide the bell is.
        sdy: how high the bell is.
    """

    def __init__(
        self,
        probability: float,
        grid_width: int,
        grid_height: int,
        magnitude: float,
        corner: Literal["bell", "ul", "ur", "dl", "dr"] = "bell",
        method: Literal["in", "out"] = "in",
        mex: float = 0.5,
        mey: float = 0.5,
        sdx: float = 0.05,
        sdy: float = 0.05,
    ) -> None:
        super().__init__(probability, grid_width, grid_height, magnitude)
        if min(sdx, sdy) <= 0:
            raise ValueError(f"sdx is {sdx} and sdy {sdy}, expected more than 0.")
        # A corner sees the half of the bell that falls off from it.
        left, right = {"l": (0.5, 1.0), "r": (0.0, 0.5)}.get(corner[1], (0.0, 1.0))
        top, bottom = {"u": (0.5, 1.0), "d": (0.0, 0.5)}.get(corner[0], (0.0, 1.0))
        x = torch.linspace(left, right, grid_width + 1)[None, :]
        y = torch.linspace(top, bottom, grid_height + 1)[:, None]
        bell = torch.exp(-((x - mex).square() / sdx + (y - mey).square() / sdy))
        self._bell = bell if method == "in" else 1 - bell

    def _surface(self, images: Tensor) -> Tensor:
        self._bell = self._bell.to(images)
        return self._bell

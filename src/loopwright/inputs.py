"""Samples as people send them: JSON, tables, image files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from loopwright.datasets import Array
from loopwright.errors import LoopwrightError
from loopwright.extras import require

__all__ = ["BadInputError", "from_csv", "from_image", "from_images", "from_json"]

_MOST_PIXELS = 50_000_000


class BadInputError(LoopwrightError, ValueError):
    """Tells a client what is wrong with what it sent."""


def from_json(body: bytes) -> Any:
    """Return the inputs in `{"inputs": [...]}`.

    Raises:
        BadInputError: it is no JSON, or of another form.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"The body is no JSON: {error}.") from None
    if not isinstance(content, dict) or content.keys() != {"inputs"}:
        raise BadInputError('Expected {"inputs": [...]} with one entry per sample.')
    return content["inputs"]


def from_csv(text: str, features: Array) -> Any:
    """Return the samples of a table: one row each, with or without a row of names before.

    Where columns hold categories the names are needed: the samples are mappings then.

    Raises:
        BadInputError: a row has another length, or holds something that is no number.
    """
    if any(features.categories):
        named = csv.DictReader(io.StringIO(text), restkey="")
        return [{name: value or None for name, value in row.items()} for row in named]
    if None in features.shape or features.dtype is str:
        raise BadInputError("The model takes no table. Send JSON.")
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    shape = tuple(size for size in features.shape if size is not None)
    width = int(np.prod(shape))
    values = np.empty((len(rows), width))
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise BadInputError(f"Row {number} has {len(row)} values; expected {width}.")
        try:
            values[number - 1] = [float(value) for value in row]
        except ValueError as error:
            raise BadInputError(f"Row {number}: {error}.") from None
    return values.reshape(len(rows), *shape)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def from_images(files: Iterable[bytes], features: Array) -> np.ndarray | list[np.ndarray]:
    """Return image files as samples; a list where the data set has images of any size.

    Raises:
        BadInputError: the model takes no images, or one of these is none.
    """
    samples = [from_image(content, features) for content in files]
    return samples if None in features.shape else np.stack(samples)


def from_image(content: bytes, features: Array) -> np.ndarray:
    """Return an image file as a sample: its colours and size as the data set has them.

    Raises:
        BadInputError: the model takes no images, or this is none.
    """
    shape = features.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise BadInputError(
            f"A sample has the shape {shape}, which is no image of (1 or 3, height, width). Send "
            "JSON or CSV."
        )
    image_module = require("PIL.Image", "images")
    try:
        with image_module.open(io.BytesIO(content)) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise BadInputError(f"An image may have {_MOST_PIXELS} pixels at most.")
            image = image.convert("L" if shape[0] == 1 else "RGB")
            size = (shape[2] or image.width, shape[1] or image.height)
            if image.size != size:
                image = image.resize(size, image_module.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except BadInputError:
        raise
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise BadInputError(f"A file is no image that can be read: {error}.") from None
    return pixels.reshape(size[1], size[0], shape[0]).transpose(2, 0, 1)

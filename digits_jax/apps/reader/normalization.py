"""Normalizes the digits of a picture to MNIST's format.

MNIST's digits were scaled into a 20x20 box at their aspect ratio, with antialiasing, and placed in 28x28 by their
center of mass (LeCun, Bottou, Bengio, Haffner 1998, section III.A).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from digits_jax.apps.reader.paper import find_sheet, without_frames
from digits_jax.apps.reader.segmentation import Box, Mark, ink_map, ink_threshold, segment, stroke_width

SIZE, BOX = 28, 20  # pixels: an image of MNIST, and the box that its digit fits in
_OVERSAMPLING = 8  # a digit is traced on a grid at least this many times finer than the box
_STROKE_WIDTHS = (2.0, 4.0)  # pixels of the box: the range of most of MNIST's digits
_SOLID_WIDTH = 7.5  # pixels of the box: one in a thousand of MNIST's digits has such strokes


class Digit(NamedTuple):
    """A digit of a picture, or a shape that may be one."""

    image: np.ndarray  # uint8 [28, 28], 255 is ink
    box: Box  # in the picture
    warning: str | None  # why it is probably not a digit


class Shapes(NamedTuple):
    """The shapes of ink in a picture."""

    digits: list[Digit]  # row by row and from left to right
    marks: list[Mark]


def find_digits(pixels: np.ndarray) -> list[Digit]:
    """Finds the digits of a picture, `[H, W, 4]` as of a `Picture`, row by row and from left to right."""
    return find_shapes(pixels).digits


def find_shapes(pixels: np.ndarray) -> Shapes:
    """Finds the digits and the marks of a picture, `[H, W, 4]` as of a `Picture`."""
    sheet = find_sheet(pixels)
    ink = ink_map(pixels, sheet)
    threshold = ink_threshold(ink, sheet)
    if threshold is None:
        return Shapes([], [])
    mask = without_frames(ink > threshold)
    labels, boxes, marks = segment(mask)
    digits = []
    for label, box in enumerate(boxes, 1):
        left, top, right, bottom = box
        around = slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)
        own = (labels[around] == label) | ~mask[around]
        image, stroke_width = normalize(np.where(own, ink[around], 0), threshold)
        warning = "cut off by the picture's edge" if _is_cut_off(labels, label, box) else None
        digits.append(Digit(image, box, "a solid shape, not pen strokes" if stroke_width > _SOLID_WIDTH else warning))
    return Shapes(digits, marks)


def _is_cut_off(labels: np.ndarray, label: int, box: Box) -> bool:
    """Returns whether more than half of a digit's size lies along one edge of the picture, but not along all four."""
    along = [np.count_nonzero(edge == label) for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1])]
    left, top, right, bottom = box
    return bool(min(along) == 0 and max(along) > max(right - left, bottom - top) / 2)


def normalize(ink: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """Returns an image in MNIST's format from the ink of one digit, and the width of its strokes.

    Strokes thinner or thicker than most of MNIST's are drawn at the nearest of `_STROKE_WIDTHS`. `ink` is the distance
    of each pixel `[H, W]` from the paper. The image is uint8 `[28, 28]`, 255 is ink; the width is in pixels of the box.
    """
    edge = np.percentile(ink[ink > threshold], 75) / 2  # half of the stroke's darkness, independent of resolution
    side = max(BOX * _OVERSAMPLING, *ink.shape)
    mask = np.pad(_resize(ink.astype(np.float32), side, Image.Resampling.BICUBIC) > edge, side // 4)
    inside = ndimage.distance_transform_edt(mask)
    width = stroke_width(inside[mask])
    new_width = np.clip(width, *(limit * side / BOX for limit in _STROKE_WIDTHS))
    if new_width != width:
        outside = ndimage.distance_transform_edt(~mask)
        mask = inside - outside > (width - new_width) / 2
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    digit = _resize(255 * mask.astype(np.float32), BOX, Image.Resampling.HAMMING)
    top, left = (
        int(np.clip(round(SIZE / 2 - middle), 0, SIZE - length))  # the center of mass as close to the middle as fits
        for middle, length in zip(ndimage.center_of_mass(digit), digit.shape, strict=True)
    )
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit.round().clip(0, 255)
    return image, width * BOX / side


def _resize(array: np.ndarray, side: int, resample: Image.Resampling) -> np.ndarray:
    """Scales the longer side to `side`, with antialiasing."""
    factor = side / max(array.shape)
    height, width = (max(1, round(length * factor)) for length in array.shape)
    return np.asarray(Image.fromarray(array).resize((width, height), resample))

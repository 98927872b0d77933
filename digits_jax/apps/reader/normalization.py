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
    ink: np.ndarray  # float32 [H, W], in the box and a pixel around it where that is in the picture


class Shapes(NamedTuple):
    """The shapes of ink in a picture."""

    digits: list[Digit]  # row by row and from left to right
    marks: list[Mark]
    threshold: float  # between paper and ink


def find_digits(pixels: np.ndarray) -> list[Digit]:
    """Finds the digits of a picture, `[H, W, 4]` as of a `Picture`, row by row and from left to right."""
    return find_shapes(pixels).digits


def find_shapes(pixels: np.ndarray) -> Shapes:
    """Finds the digits and the marks of a picture, `[H, W, 4]` as of a `Picture`."""
    sheet = find_sheet(pixels)
    ink = ink_map(pixels, sheet)
    threshold = ink_threshold(ink, sheet)
    if threshold is None:
        return Shapes([], [], 0.0)
    mask = without_frames(ink > threshold)
    labels, boxes, marks = segment(mask)
    digits = []
    for label, box in enumerate(boxes, 1):
        left, top, right, bottom = box
        around = slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)
        own = (labels[around] == label) | ~mask[around]
        own_ink = np.where(own, ink[around], 0)
        image, stroke_width = normalize(own_ink, threshold)
        warning = "cut off by the picture's edge" if _is_cut_off(labels, label, box) else None
        if stroke_width > _SOLID_WIDTH:
            warning = "a solid shape, not pen strokes"
        digits.append(Digit(image, box, warning, own_ink))
    return Shapes(digits, marks, threshold)


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
    mask, width = _trace(ink, threshold, max(ink.shape))
    digit = _resize(255 * mask.astype(np.float32), BOX / max(mask.shape), Image.Resampling.HAMMING)
    top, left = (
        int(np.clip(round(SIZE / 2 - middle), 0, SIZE - length))  # the center of mass as close to the middle as fits
        for middle, length in zip(ndimage.center_of_mass(digit), digit.shape, strict=True)
    )
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit.round().clip(0, 255)
    return image, width


def normalize_row(ink: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the ink `[H, W]` of digits beside each other as uint8 `[20, w]`, with strokes as of `normalize`."""
    mask, _ = _trace(ink, threshold, ink.shape[0])
    row = _resize(255 * mask.astype(np.float32), BOX / mask.shape[0], Image.Resampling.HAMMING)
    return row.round().clip(0, 255).astype(np.uint8)


def _trace(ink: np.ndarray, threshold: float, length: int) -> tuple[np.ndarray, float]:
    """Traces ink `[H, W]`, of which `length` pixels become the box's, on a finer grid, with a pen of common width.

    Returns the mask of the strokes, without a margin, and the width that they had in pixels of the box.
    """
    edge = np.percentile(ink[ink > threshold], 75) / 2  # half of the stroke's darkness, independent of resolution
    side = max(BOX * _OVERSAMPLING, length)
    mask = np.pad(_resize(ink.astype(np.float32), side / length, Image.Resampling.BICUBIC) > edge, side // 4)
    inside = ndimage.distance_transform_edt(mask)
    width = stroke_width(inside[mask])
    thinnest, thickest = (limit * side / BOX for limit in _STROKE_WIDTHS)
    new_width = min(max(width, thinnest), thickest)
    if new_width != width:
        outside = ndimage.distance_transform_edt(~mask)
        mask = inside - outside > (width - new_width) / 2
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], width * BOX / side


def fill_outline(ink: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the ink `[H, W]` of a shape with its strokes filled, if it is drawn as their outline.

    What is between the outermost lines and those inside them is filled; a shape without any is returned as it is.
    """
    ink = np.pad(ink, 1)
    mask = ink > threshold
    paper, _ = ndimage.label(~mask)
    lines, _ = ndimage.label(mask, np.ones((3, 3)))
    outermost = np.isin(lines, np.unique(lines[ndimage.binary_dilation(paper == paper[0, 0])])[1:])
    inside = np.setdiff1d(paper[ndimage.binary_dilation(outermost)], [0, paper[0, 0]])
    return np.where(np.isin(paper, inside), ink.max(), ink)[1:-1, 1:-1]


def _resize(array: np.ndarray, factor: float, resample: Image.Resampling) -> np.ndarray:
    """Scales both sides by a factor, with antialiasing."""
    height, width = (max(1, round(length * factor)) for length in array.shape)
    return np.asarray(Image.fromarray(array).resize((width, height), resample))

"""Makes of each digit in a picture what MNIST's images are.

Those were made from black and white scans: "size normalized to fit in a 20x20 pixel box while preserving their aspect
ratio", with grey levels "as a result of the anti-aliasing", and "centered in a 28x28 image by computing the center of
mass of the pixels" (LeCun, Bottou, Bengio, Haffner 1998, section III.A, and the page of the data set).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from digits_jax.apps.reader.ink import Box, find_parts, ink_of, threshold_of

SIZE, BOX = 28, 20  # pixels of an image of MNIST, and of the box that its digit fits in
_FINE = 8  # times finer than the box is the grid that a digit is traced on, at least
_STROKES = (2.0, 4.0)  # pixels of a stroke's width in the box, between which most of MNIST's are
_SOLID = 7.5  # pixels of a stroke's width: one in a thousand of MNIST has it


class Digit(NamedTuple):
    """One digit of a picture, or what may be one."""

    image: np.ndarray  # uint8 [28, 28], 255 is ink
    box: Box  # in the picture
    warning: str | None  # why it is hardly a digit


def find_digits(pixels: np.ndarray) -> list[Digit]:
    """The digits in a picture, row by row and from left to right; none in a blank one.

    Args:
      pixels: float `[H, W, C]` from 0 to 1; of RGBA, premultiplied.
    """
    ink = ink_of(pixels)
    threshold = threshold_of(ink)
    if threshold is None:
        return []
    is_ink = ink > threshold
    parts, found = find_parts(is_ink)
    digits = []
    for number, box in found:
        left, top, right, bottom = box
        around = slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)
        own = (parts[around] == number) | ~is_ink[around]
        image, stroke = as_mnist(np.where(own, ink[around], 0), threshold)
        warning = "a solid shape, not strokes of a pen" if stroke > _SOLID else None
        if warning is None and _is_cut_off(parts, number, box):
            warning = "cut off by the picture's edge"
        digits.append(Digit(image, box, warning))
    return digits


def _is_cut_off(parts: np.ndarray, number: int, box: Box) -> bool:
    """Whether a part lies along the picture's edge for more than half of its own size.

    A picture may well end where its digit does: what touches all four edges is not cut off.
    """
    along = [np.count_nonzero(edge == number) for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1])]
    left, top, right, bottom = box
    return bool(min(along) == 0 and max(along) > max(right - left, bottom - top) / 2)


def as_mnist(ink: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """An image as in MNIST, of the ink of one digit, and how thick its strokes were.

    Strokes that are thinner or thicker than most of MNIST's are made as thick as those.

    Args:
      ink: float `[H, W]`: how far each pixel is from the paper.
      threshold: above which it is ink.

    Returns:
      uint8 `[28, 28]`: 0 is paper, 255 ink; and the width of the strokes, in pixels of the box.
    """
    half = np.percentile(ink[ink > threshold], 75) / 2  # where a stroke's edge is, whatever its pixels
    side = max(BOX * _FINE, *ink.shape)
    mask = np.pad(_fit(ink.astype(np.float32), side, Image.Resampling.BICUBIC) > half, side // 4)
    inside = ndimage.distance_transform_edt(mask)
    # Across a stroke of width w the distance to its edge rises from 1 to w / 2 and falls: its mean is w / 4 + 1 / 2.
    width = 4 * inside[mask].mean() - 2
    wanted = np.clip(width, *(limit * side / BOX for limit in _STROKES))
    if wanted != width:
        outside = ndimage.distance_transform_edt(~mask)
        mask = inside - outside > (width - wanted) / 2
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return centred(_fit(255 * mask.astype(np.float32), BOX, Image.Resampling.HAMMING)), width * BOX / side


def _fit(array: np.ndarray, side: int, resample: Image.Resampling) -> np.ndarray:
    """Resized, antialiased, so that the longer side is as given."""
    factor = side / max(array.shape)
    height, width = (max(1, round(length * factor)) for length in array.shape)
    return np.asarray(Image.fromarray(array).resize((width, height), resample))


def centred(digit: np.ndarray) -> np.ndarray:
    """A digit `[h, w]`, from 0 to 255, in an image of 28x28 whose middle is its centre of mass, as nearly as fits."""
    top, left = (
        int(np.clip(round(SIZE / 2 - middle), 0, SIZE - length))
        for middle, length in zip(ndimage.center_of_mass(digit), digit.shape, strict=True)
    )
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit.round().clip(0, 255)
    return image

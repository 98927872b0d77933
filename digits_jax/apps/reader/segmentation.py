"""Separates ink from paper of any color, and groups the strokes of each digit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from digits_jax.apps.reader.paper import otsu

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are exclusive
_Group = tuple[list[int], Box]  # indices of connected components, and their bounding box

_MIN_CONTRAST = 0.06  # between ink and paper, where black and white have 1; less is a stain
_MAX_STROKES = 200  # more connected components are noise or a photograph
_MIN_RELATIVE_SIZE = 0.15  # of the largest component; smaller ones are dirt
_MIN_SIZE = 6  # pixels; smaller digits are illegible
_GAP = 0.5  # of the stroke's width: half of the widest gap inside of a shape
_MARK_SIZE = 0.35  # largest height of a dash, size of a point or comma, as a fraction of the tallest digit
_POINT_SIZE = 0.6  # smallest side of a point, in widths of a stroke; smaller ones are dirt
_MARK_WIDTH = 2.75  # largest width of such a mark in widths of a stroke, which a slanted comma takes
_DASH_SHAPE = 2.0  # smallest width of a dash, in its heights


class Mark(NamedTuple):
    """A minus sign or dash, or a point or comma."""

    symbol: str  # - or .
    box: Box


def ink_map(pixels: np.ndarray, sheet: np.ndarray | None = None) -> np.ndarray:
    """Returns the distance of pixels `[H, W, C]` from the paper in color space: 1 is black on white or the inverse.

    The paper is what most of the border shows, of the picture or of a `sheet` in it, a mask `[H, W]`, outside of which
    no ink is found. As light may be uneven, its color is a quadratic polynomial in x and y, fitted by iteratively
    reweighted least squares with the weights of Geman and McClure (1987), which ignore ink.
    """
    height, width = pixels.shape[:2]
    step, border = _border(height, width, sheet)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    terms = np.stack(np.broadcast_arrays(np.ones(()), x, y, x * x, x * y, y * y), -1).astype(np.float32)
    inside = (np.ones((height, width), bool) if sheet is None else sheet)[::step, ::step]
    design, colors, border = (array[::step, ::step][inside] for array in (terms, pixels, border))
    distances = np.linalg.norm(colors - np.median(colors[border], axis=0), axis=1)
    scale = max(0.05, 3 * float(np.median(distances[border])))
    for _ in range(8):
        weights = 1 / (1 + (distances / scale) ** 2)[:, None]
        paper = np.linalg.lstsq(design * weights, colors * weights, rcond=None)[0]
        distances = np.linalg.norm(colors - design @ paper, axis=1)
    ink = np.linalg.norm(pixels - terms @ paper, axis=-1) / np.sqrt(3)
    return ink if sheet is None else np.where(sheet, ink, 0)


def _border(height: int, width: int, sheet: np.ndarray | None = None) -> tuple[int, np.ndarray]:
    """Returns the stride at which the longer side has about 64 pixels, and a mask of the two outermost of them."""
    step = max(1, max(height, width) // 64)
    if sheet is not None:
        return step, sheet & ~ndimage.minimum_filter(sheet, 4 * step + 1)
    border = np.ones((height, width), bool)
    border[2 * step : -2 * step, 2 * step : -2 * step] = False
    return step, border


def ink_threshold(ink: np.ndarray, sheet: np.ndarray | None = None) -> float | None:
    """Returns Otsu's threshold between paper and ink, above a camera's noise, or None for a blank picture or sheet."""
    threshold, contrast = otsu(ink if sheet is None else ink[sheet])
    if contrast < _MIN_CONTRAST:
        return None
    height, width = ink.shape
    return max(threshold, 3 * float(np.median(ink[_border(height, width, sheet)[1]])))


def segment(mask: np.ndarray) -> tuple[np.ndarray, list[Box], list[Mark]]:
    """Groups the connected components of an ink mask `[H, W]` into digits, row by row and from left to right.

    Returns the number of each pixel's digit `[H, W]`, counted from 1, or 0, the bounding box of each digit, and the
    marks, which are no digits.
    """
    if not mask.any():
        return np.zeros(mask.shape, int), [], []
    stroke = stroke_width(ndimage.distance_transform_edt(mask)[mask])
    labels, count = _label(mask, gap=_GAP * stroke)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]).reshape(-1, 4)
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    kept = np.flatnonzero(sizes >= max(_MIN_SIZE, _MIN_RELATIVE_SIZE * sizes.max(initial=0)))
    areas = np.bincount(labels.ravel())[1:]
    if len(kept) > _MAX_STROKES or areas[kept].sum() < areas.sum() / 2:  # noise, a photograph, or mostly dirt
        return np.zeros_like(labels), [], []
    groups = _merge([([int(i)], tuple(boxes[i].tolist())) for i in kept])
    shapes = [box for _, box in groups]
    small = np.setdiff1d(np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1) > _POINT_SIZE * stroke), kept)
    symbols = {box: _mark_symbol(box, shapes, stroke) for box in [*shapes, *map(tuple, boxes[small].tolist())]}
    marks = [Mark(symbol, box) for box, symbol in symbols.items() if symbol]
    groups = [group for group in groups if not symbols[group[1]]]
    groups = [groups[i] for row in rows_of([box for _, box in groups]) for i in row]
    digits = np.zeros(count + 1, int)
    for number, (members, _) in enumerate(groups, 1):
        digits[np.array(members) + 1] = number
    return digits[labels], [box for _, box in groups], marks


def stroke_width(inside: np.ndarray) -> float:
    """Returns the mean width of strokes in pixels, from the distance of each of their pixels `[N]` to their edge."""
    # Across a stroke of width w the distance to its edge rises from 1 to w / 2 and falls: the mean is w / 4 + 1 / 2.
    return 4 * float(inside.mean()) - 2


def _label(mask: np.ndarray, gap: float) -> tuple[np.ndarray, int]:
    """Labels the connected components of a mask as `ndimage.label` does, across gaps of up to twice `gap` pixels."""
    labels, count = ndimage.label(ndimage.distance_transform_edt(~mask) <= gap, np.ones((3, 3)))
    return np.where(mask, labels, 0), count


def _mark_symbol(box: Box, boxes: Sequence[Box], stroke: float) -> str | None:
    """Returns the symbol of a shape among others that is a dash, or a point or comma at the foot of a digit.

    It is a single stroke of a pen with the mean width `stroke` in pixels.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    tallest = max(other[3] - other[1] for other in boxes)
    if height > _MARK_SIZE * tallest or min(width, height) > _MARK_WIDTH * stroke:
        return None
    if width >= _DASH_SHAPE * height:
        return "-"
    nearest = min(
        (other for other in boxes if other[3] - other[1] > 0.6 * tallest),
        key=lambda other: abs(other[0] + other[2] - box[0] - box[2]) + abs(other[1] + other[3] - box[1] - box[3]),
    )
    foot = nearest[1] + 0.65 * (nearest[3] - nearest[1])
    return "." if width <= _MARK_SIZE * tallest and (box[1] + box[3]) / 2 > foot else None


def _merge(groups: list[_Group]) -> list[_Group]:
    """Merges strokes of one digit that do not touch, such as the bar of a 5."""
    tallest = max((box[3] - box[1] for _, box in groups), default=0)
    for i, (members, box) in enumerate(groups):
        for j, (others, other) in enumerate(groups[:i]):
            if _belong_together(box, other, tallest):
                union = (min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3]))
                return _merge([*groups[:j], *groups[j + 1 : i], *groups[i + 1 :], (members + others, union)])
    return groups


def _belong_together(a: Box, b: Box, tallest: int) -> bool:
    """Returns whether one box is close above or inside the other; two that are as tall as digits must almost touch."""
    overlap = min(a[2], b[2]) - max(a[0], b[0])
    gap = max(a[1], b[1]) - min(a[3], b[3])
    heights = a[3] - a[1], b[3] - b[1]
    near = 0.25 if min(heights) < 0.6 * tallest else 0.05
    return overlap >= 0.5 * min(a[2] - a[0], b[2] - b[0]) and gap <= near * max(heights)


def rows_of(boxes: Sequence[Box]) -> list[list[int]]:
    """Returns the indices of boxes, row by row and from left to right.

    A row ends where the middle of a box is below the mean bottom of the row's boxes.
    """
    rows: list[list[int]] = []
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i][1] + boxes[i][3]):
        middle = (boxes[i][1] + boxes[i][3]) / 2
        if not rows or middle > np.mean([boxes[j][3] for j in rows[-1]]):
            rows.append([])
        rows[-1].append(i)
    return [sorted(row, key=lambda i: boxes[i][0]) for row in rows]

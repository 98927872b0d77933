"""Separates ink from paper of any color, and groups the strokes of each digit."""

import numpy as np
from scipy import ndimage

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are exclusive
_Group = tuple[list[int], Box]  # indices of connected components, and their bounding box

_MIN_CONTRAST = 0.06  # between ink and paper, where black and white have 1; less is a stain
_MAX_STROKES = 200  # more connected components are noise or a photograph
_MIN_RELATIVE_SIZE = 0.15  # of the largest component; smaller ones are dirt
_MIN_SIZE = 6  # pixels; smaller digits are illegible


def ink_map(pixels: np.ndarray) -> np.ndarray:
    """Returns the distance of pixels `[H, W, C]` from the paper in color space: 1 is black on white or the inverse.

    The paper is what most of the border shows. As light may be uneven, its color is a quadratic polynomial in x and y,
    fitted by iteratively reweighted least squares with the weights of Geman and McClure (1987), which ignore ink.
    """
    height, width, channels = pixels.shape
    step, border = _border(height, width)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    terms = np.stack(np.broadcast_arrays(np.ones(()), x, y, x * x, x * y, y * y), -1).astype(np.float32)
    design, colors = terms[::step, ::step].reshape(-1, 6), pixels[::step, ::step].reshape(-1, channels)
    border = border[::step, ::step].reshape(-1)
    distances = np.linalg.norm(colors - np.median(colors[border], axis=0), axis=1)
    scale = max(0.05, 3 * float(np.median(distances[border])))
    for _ in range(8):
        weights = 1 / (1 + (distances / scale) ** 2)[:, None]
        paper = np.linalg.lstsq(design * weights, colors * weights, rcond=None)[0]
        distances = np.linalg.norm(colors - design @ paper, axis=1)
    return np.linalg.norm(pixels - terms @ paper, axis=-1) / np.sqrt(3)


def _border(height: int, width: int) -> tuple[int, np.ndarray]:
    """Returns the stride at which the longer side has about 64 pixels, and a mask of the two outermost of them."""
    step = max(1, max(height, width) // 64)
    border = np.ones((height, width), bool)
    border[2 * step : -2 * step, 2 * step : -2 * step] = False
    return step, border


def ink_threshold(ink: np.ndarray) -> float | None:
    """Returns Otsu's threshold (1979) between paper and ink, above a camera's noise, or None for a blank picture."""
    counts, edges = np.histogram(ink, 256, (0, max(float(ink.max()), 1e-6)))
    levels = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = ink.size - below
    sums = np.cumsum(counts * levels)
    means_below, means_above = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    best = int(np.argmax(below * above * (means_above - means_below) ** 2))
    if means_above[best] - means_below[best] < _MIN_CONTRAST:
        return None
    return max(float(edges[best + 1]), 3 * float(np.median(ink[_border(*ink.shape)[1]])))


def segment(mask: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """Groups the connected components of an ink mask `[H, W]` into digits, row by row and from left to right.

    Returns the number of each pixel's digit `[H, W]`, counted from 1, or 0, and the bounding box of each digit.
    """
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]).reshape(-1, 4)
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    kept = np.flatnonzero(sizes >= max(_MIN_SIZE, _MIN_RELATIVE_SIZE * sizes.max(initial=0)))
    areas = np.bincount(labels.ravel())[1:]
    if len(kept) > _MAX_STROKES or areas[kept].sum() < areas.sum() / 2:  # noise, a photograph, or mostly dirt
        return np.zeros_like(labels), []
    groups = _reading_order(_merge([([int(i)], tuple(boxes[i].tolist())) for i in kept]))
    digits = np.zeros(count + 1, int)
    for number, (members, _) in enumerate(groups, 1):
        digits[np.array(members) + 1] = number
    return digits[labels], [box for _, box in groups]


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


def _reading_order(groups: list[_Group]) -> list[_Group]:
    """Sorts into rows; a row ends where the middle of a box is below the mean bottom of the row's boxes."""
    rows: list[list[_Group]] = []
    for group in sorted(groups, key=lambda group: group[1][1] + group[1][3]):
        _, top, _, bottom = group[1]
        if not rows or (top + bottom) / 2 > np.mean([box[3] for _, box in rows[-1]]):
            rows.append([])
        rows[-1].append(group)
    return [group for row in rows for group in sorted(row, key=lambda group: group[1][0])]

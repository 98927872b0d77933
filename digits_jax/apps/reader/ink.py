"""Tells ink from paper in a picture, whatever their colours, and finds the strokes that belong together."""

import numpy as np
from scipy import ndimage

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the last two exclusive

_FAINT = 0.06  # of the distance between black and white: what is closer to the paper is a stain, not ink
_MOST = 200  # strokes; more is noise, or a photograph, and so is a picture that has more dirt than strokes
_SPECK = 0.15  # of the size of the largest stroke: what is smaller is dirt
_SMALL = 6  # pixels: smaller digits cannot be told apart
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


def ink_of(pixels: np.ndarray) -> np.ndarray:
    """How far each pixel's colour is from the paper's, so that dark on light and light on dark are the same.

    The paper is what most of the picture's border shows. Its colour may change slowly over the picture, as light does:
    a quadratic polynomial of the place, fitted by iteratively reweighted least squares (Geman and McClure's weights,
    under which ink counts for nothing).

    Args:
      pixels: float `[H, W, C]` from 0 to 1; of RGBA, premultiplied.

    Returns:
      float `[H, W]`: 0 is paper, and 1 black on white or the reverse.
    """
    height, width, channels = pixels.shape
    step = max(1, max(height, width) // 64)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    terms = np.stack(np.broadcast_arrays(np.ones(()), x, y, x * x, x * y, y * y), -1).astype(np.float32)
    places, colours = terms[::step, ::step].reshape(-1, 6), pixels[::step, ::step].reshape(-1, channels)
    border = _border(height, width, step)[::step, ::step].reshape(-1)
    distances = np.linalg.norm(colours - np.median(colours[border], axis=0), axis=1)
    scale = max(0.05, 3 * float(np.median(distances[border])))
    for _ in range(8):
        weights = 1 / (1 + (distances / scale) ** 2)[:, None]
        paper = np.linalg.lstsq(places * weights, colours * weights, rcond=None)[0]
        distances = np.linalg.norm(colours - places @ paper, axis=1)
    return np.linalg.norm(pixels - terms @ paper, axis=-1) / np.sqrt(3)


def _border(height: int, width: int, step: int) -> np.ndarray:
    border = np.ones((height, width), bool)
    border[2 * step : -2 * step, 2 * step : -2 * step] = False
    return border


def threshold_of(ink: np.ndarray) -> float | None:
    """The distance from the paper at which ink begins (Otsu 1979); None where there is only paper."""
    counts, edges = np.histogram(ink, 256, (0, max(float(ink.max()), 1e-6)))
    levels = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = ink.size - below
    sums = np.cumsum(counts * levels)
    means_below, means_above = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    best = int(np.argmax(below * above * (means_above - means_below) ** 2))
    if means_above[best] - means_below[best] < _FAINT:
        return None
    grain = float(np.median(ink[_border(ink.shape[0], ink.shape[1], max(1, max(ink.shape) // 64))]))
    return max(float(edges[best + 1]), 3 * grain)


def find_parts(mask: np.ndarray) -> tuple[np.ndarray, list[tuple[int, Box]]]:
    """The strokes of ink that make up a digit each, row by row and from left to right.

    Args:
      mask: bool `[H, W]`: what is ink.

    Returns:
      int `[H, W]`: the number of the part that a pixel belongs to, 0 for none; and the number and box of each part.
    """
    labels, count = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]).reshape(-1, 4)
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    kept = np.flatnonzero(sizes >= max(_SMALL, _SPECK * sizes.max(initial=0)))
    areas = np.bincount(labels.ravel())[1:]
    if len(kept) > _MOST or areas[kept].sum() < areas.sum() / 2:
        return np.zeros_like(labels), []
    groups = [([int(i)], tuple(boxes[i].tolist())) for i in kept]
    groups = _joined(groups)
    numbers = np.zeros(count + 1, int)
    for number, (members, _) in enumerate(groups, 1):
        numbers[np.array(members) + 1] = number
    order = _reading_order([box for _, box in groups])
    return numbers[labels], [(i + 1, groups[i][1]) for i in order]


def _joined(groups: list[tuple[list[int], Box]]) -> list[tuple[list[int], Box]]:
    """Strokes that do not touch and yet belong to one digit, such as the bar of a 5, as one group."""
    tallest = max((box[3] - box[1] for _, box in groups), default=0)
    for i, (members, box) in enumerate(groups):
        for j, (others, other) in enumerate(groups[:i]):
            if _belong_together(box, other, tallest):
                both = (min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3]))
                rest = [group for k, group in enumerate(groups) if k not in (i, j)]
                return _joined([*rest, (members + others, both)])
    return groups


def _belong_together(a: Box, b: Box, tallest: int) -> bool:
    """Whether one is above the other or within it, close by, and not both are as tall as a digit."""
    overlap = min(a[2], b[2]) - max(a[0], b[0])
    gap = max(a[1], b[1]) - min(a[3], b[3])
    heights = a[3] - a[1], b[3] - b[1]
    near = 0.25 if min(heights) < 0.6 * tallest else 0.05
    return overlap >= 0.5 * min(a[2] - a[0], b[2] - b[0]) and gap <= near * max(heights)


def _reading_order(boxes: list[Box]) -> list[int]:
    """A box begins a new row when its middle is below the mean bottom of the row's boxes."""
    rows: list[list[int]] = []
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i][1] + boxes[i][3]):
        middle = (boxes[i][1] + boxes[i][3]) / 2
        if not rows or middle > np.mean([boxes[j][3] for j in rows[-1]]):
            rows.append([])
        rows[-1].append(i)
    return [i for row in rows for i in sorted(row, key=lambda i: boxes[i][0])]

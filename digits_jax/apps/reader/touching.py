"""Cuts digits that touch into parts that look like whole digits.

A shape is cut along several seams, more than it has digits, and the chain of parts is chosen that a small network finds
most likely to be whole digits, as in LeCun, Bottou, Bengio and Haffner 1998, section V.
"""

from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict
from PIL import Image
from scipy import ndimage

from digits_jax.apps.reader.normalization import SIZE, normalize
from digits_jax.apps.reader.segmentation import Box
from digits_jax.runs.shipped import read_arrays

_SIDE = 48  # pixels: the height at which shapes are cut
_DENSITY = 12  # seams in a shape that is as wide as high
_BEND = 0.05  # cost of a seam's step to the side, where crossing a pixel of ink costs 1
_MIN_STRIP = 0.015  # of the shape's ink: two seams have more of it between them
_MIN_INK, _MIN_HEIGHT, _MAX_WIDTH = 0.05, 0.5, 1.2  # of a part: ink and height of the shape's, width of its own height
_CRUMB = 0.12  # of a part's ink: smaller pieces that a seam cut off belong to the neighbor
NOT_WHOLE = 10  # the network's class of parts of digits, several digits, and letters
_BATCH = 32


class Part(NamedTuple):
    """The ink between two seams of a shape."""

    start: int  # number of the seam on its left; 0 is the shape's left edge
    stop: int
    ink: np.ndarray  # float32 [h, w]
    mask: np.ndarray  # bool, the part's own pixels in the shape, which is at most 48 pixels high for this
    box: Box  # in the shape's ink


class WholeDigits(nn.Module):
    """Log-probabilities `[B, 11]` that images `[B, 28, 28]` in [0, 1] are each of the ten digits, or `NOT_WHOLE`."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images[..., None]
        for features in (12, 24, 32):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.log_softmax(nn.Dense(NOT_WHOLE + 1)(x))


class Cutter:
    """Finds touching digits in shapes, with the network that is shipped for it."""

    def __init__(self) -> None:
        arrays = {name: array.astype(np.float32) for name, array in read_arrays("whole").items()}
        self._variables = unflatten_dict(arrays, sep="/")
        self._forward = jax.jit(WholeDigits().apply)

    def doubt(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability `[N]` that uint8 images `[N, 28, 28]` are not one whole digit each."""
        return np.exp(self.classify(images)[:, NOT_WHOLE])

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Returns the log-probabilities `[N, 11]` of uint8 images `[N, 28, 28]`."""
        padded = np.zeros((-(-len(images) // _BATCH) * _BATCH, SIZE, SIZE), np.float32)
        padded[: len(images)] = images / np.float32(255)
        batches = padded.reshape(-1, _BATCH, SIZE, SIZE)
        found = [np.asarray(self._forward(self._variables, batch)) for batch in batches]
        return np.concatenate([np.zeros((0, NOT_WHOLE + 1), np.float32), *found])[: len(images)]

    def cut(self, ink: np.ndarray, threshold: float) -> tuple[list[tuple[np.ndarray, Box]], float]:
        """Cuts a shape, given by its ink `[H, W]`, into the most probable chain of whole digits.

        Returns the image, uint8 `[28, 28]`, and the box in `ink` of each, and the least of their probabilities; nothing
        and 0 if there is no chain.
        """
        parts = find_parts(ink, threshold)
        images = np.array([normalize(part.ink, threshold)[0] for part in parts]).reshape(-1, SIZE, SIZE)
        costs = -self.classify(images)[:, :NOT_WHOLE].max(axis=1)
        chain = shortest_chain(parts, costs)
        probability = np.exp(-max((costs[i] for i in chain), default=np.inf))
        return [(images[i], parts[i].box) for i in chain], float(probability)


def find_parts(ink: np.ndarray, threshold: float) -> list[Part]:
    """Returns what may be a digit between any two seams of a shape, given by its ink `[H, W]`."""
    scale = min(1.0, _SIDE / ink.shape[0])
    height, width = max(1, round(scale * ink.shape[0])), max(1, round(scale * ink.shape[1]))
    ink = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
    mask = ink > threshold
    column = np.arange(width)
    edges = [np.zeros(height, int)]
    for seam in sorted(_seams(mask, max(5, round(_DENSITY * width / height))), key=np.sum):
        seam = np.maximum(seam, edges[-1])
        left = mask & (column < seam[:, None])
        strips = np.count_nonzero(left & (column >= edges[-1][:, None])), np.count_nonzero(mask & ~left)
        if min(strips) > _MIN_STRIP * np.count_nonzero(mask):
            edges.append(seam)
    edges.append(np.full(height, width))
    parts = []
    for stop in range(1, len(edges)):
        for start in range(stop):
            between = (column >= edges[start][:, None]) & (column < edges[stop][:, None])
            own = _without_crumbs(mask & between)
            if np.count_nonzero(own) < _MIN_INK * np.count_nonzero(mask):
                continue
            rows, columns = ndimage.find_objects(own.astype(int))[0]
            tall = rows.stop - rows.start
            if tall < _MIN_HEIGHT * height or columns.stop - columns.start > _MAX_WIDTH * tall:
                continue
            around = slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1)
            part = np.where((own | ~mask) & between, ink, 0)[around]
            box = tuple(round(side / scale) for side in (columns.start, rows.start, columns.stop, rows.stop))
            parts.append(Part(start, stop, part, own, box))
    return parts


def shortest_chain(parts: list[Part], costs: np.ndarray) -> list[int]:
    """Returns the indices of parts that together are the shape, one beginning where the other ends, at least cost."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for i in sorted(range(len(parts)), key=lambda i: parts[i].stop):
        if (before := best.get(parts[i].start)) and before[0] + costs[i] < best.get(parts[i].stop, (np.inf,))[0]:
            best[parts[i].stop] = before[0] + costs[i], [*before[1], i]
    last = max((part.stop for part in parts), default=0)
    return best.get(last, (0.0, []))[1]


def _seams(mask: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns paths from top to bottom, the column in each row, that cross little ink, each in a band of its own."""
    width = mask.shape[1]
    half = max(2, width // count)
    centers = np.linspace(0, width, count + 2)[1:-1].astype(int)
    columns = np.arange(-half, half + 1) + centers[:, None]
    costs = np.where((columns >= 0) & (columns < width), mask[:, columns.clip(0, width - 1)] + 0.02, np.inf)
    totals, steps = costs[0], []
    for row in costs[1:]:
        padded = np.pad(totals, ((0, 0), (1, 1)), constant_values=np.inf)
        from_above = np.stack([padded[:, :-2] + _BEND, totals, padded[:, 2:] + _BEND])
        steps.append(from_above.argmin(axis=0) - 1)
        totals = row + from_above.min(axis=0)
    at = totals.argmin(axis=1)
    path = [at]
    for step in reversed(steps):
        at = at + step[np.arange(count), at]
        path.append(at)
    return list(np.stack(path[::-1], axis=1) - half + centers[:, None])


def _without_crumbs(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return (areas >= max(1, _CRUMB * areas.sum()))[labels]

"""Reads digits that touch as a row, and cuts the row between the digits that it has read.

A network labels the columns of a row with digits and blanks, trained with connectionist temporal classification (CTC;
Graves, Fernandez, Gomez and Schmidhuber 2006), so that nothing is cut before it is read.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import unflatten_dict
from PIL import Image
from scipy import ndimage

from digits_jax.apps.reader.normalization import BOX, normalize_row
from digits_jax.apps.reader.segmentation import Box
from digits_jax.runs.shipped import read_arrays

HEIGHT, WIDTH = 28, 96  # pixels of a row: its height, and what its width is padded to a multiple of
MAX_DIGITS = 16  # in a row, which is less than so many times as wide as high
_TOP, _LEFT = (HEIGHT - BOX) // 2, 8  # pixels around the ink of a row
_COLUMN, _FIRST = 2, 6  # pixels: the distance of the network's columns, and the middle of its first one
_BATCH = 16
_SIDE = 48  # pixels: the height at which rows are cut
_MARGIN = 0.1  # of the height: a row is not cut so close to its ends
_BEND = 0.05  # cost of a seam's step to the side, where crossing a pixel of ink costs 1
_CRUMB = 0.12  # of a part's ink: smaller pieces that a seam cut off belong to the neighbor


class Row(NamedTuple):
    """The digits of a row."""

    probabilities: np.ndarray  # float32 [N, 10], of each digit
    probability: float  # that the row reads so
    single: float  # probability that it is one digit instead, the most probable one
    middles: np.ndarray  # [N]: of the digits, as fractions of the row's width

    @property
    def digits(self) -> list[int]:
        return self.probabilities.argmax(axis=1).tolist()


class RowNetwork(nn.Module):
    """Logits `[B, W / 2 - 5, 11]` of rows `[B, 28, W]` in [0, 1]: in each column a blank, then the ten digits."""

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        x = rows[..., None]
        x = nn.max_pool(nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(32, (3, 3), padding="VALID")(x)), (2, 1), (2, 1))
        x = nn.relu(nn.Conv(64, (3, 3), padding="VALID")(x))
        x = jnp.moveaxis(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)
        x = nn.relu(nn.Dense(96)(x))
        x = nn.relu(nn.Conv(96, (5,))(x))
        return nn.Dense(11)(x)


def pad_row(row: np.ndarray) -> np.ndarray:
    """Pads a row of `normalize_row` to `HEIGHT` and a multiple of `WIDTH`."""
    width = row.shape[1] + 2 * _LEFT
    right = -width % WIDTH + _LEFT
    return np.pad(row, ((_TOP, _TOP), (_LEFT, right)))


def num_columns(width: int) -> int:
    """Returns the number of the network's columns for rows of a width in pixels."""
    return width // _COLUMN - 5


def columns_of(middles: Sequence[float], width: int) -> np.ndarray:
    """Returns the columns of the network nearest to digits, given by their middles as fractions of a row's width."""
    return np.round((_LEFT + np.array(middles) * width - _FIRST) / _COLUMN).astype(int)


def ctc_loss(logits: jax.Array, labels: jax.Array | np.ndarray) -> jax.Array:
    """Returns -log p of labels `[B, N]`, digits counted from 1 and padded with 0, given `RowNetwork`'s logits."""
    return optax.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, (labels == 0).astype(logits.dtype))


class RowReader:
    """Reads rows of digits, with the network that is shipped for it."""

    def __init__(self) -> None:
        arrays = {name: array.astype(np.float32) for name, array in read_arrays("rows").items()}
        self._variables = unflatten_dict(arrays, sep="/")
        self._logits = jax.jit(RowNetwork().apply)
        self._losses = jax.jit(jax.vmap(ctc_loss, in_axes=(None, 0)))

    def read(self, inks: Sequence[np.ndarray], threshold: float) -> list[Row]:
        """Reads rows, each given by its ink `[H, W]`; one that is far too long has no digits, and probability 0."""
        rows = [Row(np.zeros((0, 10), np.float32), 0.0, 0.0, np.zeros(0))] * len(inks)
        images = {}
        for i, ink in enumerate(inks):
            if ink.shape[1] < MAX_DIGITS * ink.shape[0]:
                images[i] = pad_row(normalize_row(ink, threshold))
        for width in {image.shape[1] for image in images.values()}:
            same = [i for i, image in images.items() if image.shape[1] == width]
            for start in range(0, len(same), _BATCH):
                batch = same[start : start + _BATCH]
                for i, row in zip(batch, self._read_batch(np.stack([images[i] for i in batch])), strict=True):
                    rows[i] = row
        return rows

    def _read_batch(self, images: np.ndarray) -> Iterator[Row]:
        batch = np.zeros((_BATCH, *images.shape[1:]), np.float32)
        batch[: len(images)] = images / np.float32(255)
        logits = self._logits(self._variables, batch)
        paths = np.asarray(logits).argmax(axis=-1)
        is_first = (paths > 0) & (np.diff(paths, axis=1, prepend=0) != 0)  # of equal labels side by side
        columns = [np.flatnonzero(first)[:MAX_DIGITS] for first in is_first]
        labels = np.zeros((11, _BATCH, MAX_DIGITS), np.int32)  # the paths', then each digit alone
        labels[1:, :, 0] = np.arange(1, 11)[:, None]
        for path, found, label in zip(paths, columns, labels[0], strict=True):
            label[: len(found)] = path[found]
        of_paths, *of_digits = np.exp(-np.asarray(self._losses(logits, labels)))
        single = np.max(of_digits, axis=0)
        digits = np.asarray(jax.nn.softmax(logits[..., 1:]))
        for i, (image, found) in enumerate(zip(images, columns, strict=False)):
            width = np.flatnonzero(image.any(axis=0))[-1] + 1 - _LEFT
            middles = (_FIRST - _LEFT + _COLUMN * found) / width
            yield Row(digits[i, found], float(of_paths[i]), float(single[i]), middles)


def cut(ink: np.ndarray, threshold: float, middles: np.ndarray) -> list[tuple[np.ndarray, Box]]:
    """Cuts a row, given by its ink `[H, W]`, between the middles of its digits, in fractions of its width.

    Returns the ink of each digit, scaled to a row 48 pixels high, and its box in `ink`.
    """
    scale = _SIDE / ink.shape[0]
    height, width = _SIDE, max(2, round(scale * ink.shape[1]))
    ink = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.HAMMING))
    mask = ink > threshold
    columns = np.arange(width)
    margin = _MARGIN * height
    bands = np.clip(middles * width, min(margin, width / 2), max(width - margin, width / 2)).astype(int)
    seams = [_seam(mask, start, max(stop, start + 1)) for start, stop in itertools.pairwise(bands)]
    edges = [np.zeros(height, int), *seams, np.full(height, width)]
    parts = []
    for left, right in itertools.pairwise(edges):
        between = (columns >= left[:, None]) & (columns < np.maximum(right, left + 1)[:, None])
        own = _without_crumbs(mask & between)
        rows, across = ndimage.find_objects((own if own.any() else between).astype(int))[0]
        around = slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(across.start - 1, 0), across.stop + 1)
        box = tuple(round(side / scale) for side in (across.start, rows.start, across.stop, rows.stop))
        parts.append((np.where((own | ~mask) & between, ink, 0)[around], box))
    return parts


def _seam(mask: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Returns the path from top to bottom, the column `[H]` in each row, that crosses the least ink between columns."""
    costs = mask[:, start:stop] + 0.02
    totals, steps = costs[0], []
    for row in costs[1:]:
        padded = np.pad(totals, 1, constant_values=np.inf)
        from_above = np.stack([padded[:-2] + _BEND, totals, padded[2:] + _BEND])
        steps.append(from_above.argmin(axis=0) - 1)
        totals = row + from_above.min(axis=0)
    path = [int(totals.argmin())]
    for step in reversed(steps):
        path.append(path[-1] + int(step[path[-1]]))
    return np.array(path[::-1]) + start


def _without_crumbs(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return (areas >= max(1, _CRUMB * areas.sum()))[labels]

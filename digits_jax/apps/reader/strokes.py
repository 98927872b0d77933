"""Digits and letters drawn by hand, as the strokes of a pen."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from digits_jax.apps.reader.digit_images import as_mnist

# A stroke goes through these points, in tenths of a digit's height: x to the right, then y downwards.
Strokes = Sequence[Sequence[tuple[float, float]]]

DIGITS: dict[str, Strokes] = {
    "0": [[(4, 0), (1, 2), (0.5, 6), (3, 10), (6, 7), (6, 2), (3.6, 0.2)]],
    "1": [[(3, 0), (3.2, 5), (3, 10)]],
    "2": [[(0.5, 2), (2, 0.2), (5, 0.6), (5.2, 3.5), (3, 7), (0.3, 9.7), (3, 9.2), (6, 9.6)]],
    "3": [[(0.6, 1), (3, 0), (5.2, 1.6), (4.4, 3.9), (2.4, 4.6), (5, 5.6), (5.6, 8), (3.4, 10), (0.4, 9)]],
    "4": [[(1.8, 0.2), (1, 3), (0.2, 5.6), (3, 5.5), (6.4, 5.3)], [(4.6, 2.4), (4.5, 6), (4.2, 10)]],
    "5": [[(1.2, 1), (1, 3), (1, 4.6), (3.4, 4), (5.4, 6.2), (4, 9.4), (0.4, 9.4)], [(1.6, 0.2), (3.6, 0.1), (5.6, 0)]],
    "6": [[(4.8, 0.2), (2, 2.6), (0.6, 6.4), (2.4, 9.9), (5, 8.6), (4.4, 6), (2, 6), (0.8, 7.4)]],
    "7": [[(0.2, 0.6), (3, 0.5), (5.8, 0.3), (4.4, 4), (2.6, 10)]],
    "8": [[(5.2, 1.4), (3, 0), (1, 1.8), (3, 4.4), (5.4, 7.4), (3, 10), (0.8, 8), (2.8, 5), (5, 2.6), (5.2, 1.4)]],
    "9": [[(5, 1.6), (2.8, 0.2), (0.8, 2.4), (2.4, 4.8), (4.8, 3), (5.2, 1.4), (4.9, 5.6), (4.4, 10)]],
}

# Those that nobody takes for a digit where each stands alone; v, w and x are as their capitals.
LETTERS: dict[str, Strokes] = {
    "A": [[(0, 10), (3, 0)], [(3, 0), (6, 10)], [(1.3, 6.2), (4.9, 6.2)]],
    "C": [[(6, 2), (3.5, 0), (0.5, 3), (0.5, 7), (3.5, 10), (6, 8)]],
    "E": [[(0, 0), (0, 10)], [(0, 0), (5.5, 0)], [(0, 5), (4.5, 5)], [(0, 10), (5.5, 10)]],
    "F": [[(0, 0), (0, 10)], [(0, 0), (5.5, 0)], [(0, 5), (4.5, 5)]],
    "H": [[(0, 0), (0, 10)], [(6, 0), (6, 10)], [(0, 5), (6, 5)]],
    "J": [[(4, 0), (4, 7), (2, 10), (0, 8)]],
    "K": [[(0, 0), (0, 10)], [(5, 0), (0.2, 5.5)], [(1.5, 4.5), (5.5, 10)]],
    "L": [[(0, 0), (0, 10)], [(0, 10), (5, 10)]],
    "M": [[(0, 10), (0.5, 0)], [(0.5, 0), (3.5, 7)], [(3.5, 7), (6.5, 0)], [(6.5, 0), (7, 10)]],
    "N": [[(0, 10), (0, 0)], [(0, 0), (6, 10)], [(6, 10), (6, 0)]],
    "P": [[(0, 0), (0, 10)], [(0, 0.2), (4, 0.4), (5, 2.6), (3.5, 5), (0, 5.2)]],
    "R": [[(0, 0), (0, 10)], [(0, 0.2), (4, 0.4), (5, 2.6), (3.5, 5), (0, 5.2)], [(2, 5), (5.5, 10)]],
    "T": [[(0, 0), (6, 0)], [(3, 0), (3, 10)]],
    "U": [[(0, 0), (0.2, 7), (3, 10), (5.8, 7), (6, 0)]],
    "V": [[(0, 0), (3, 10)], [(3, 10), (6, 0)]],
    "W": [[(0, 0), (2, 10)], [(2, 10), (4, 2)], [(4, 2), (6, 10)], [(6, 10), (8, 0)]],
    "X": [[(0, 0), (6, 10)], [(6, 0), (0, 10)]],
    "Y": [[(0, 0), (3, 5)], [(6, 0), (3, 5)], [(3, 5), (3, 10)]],
    "a": [[(0.8, 5), (3, 4), (5, 5.5), (5, 10)], [(5, 6.6), (1.5, 7), (0.8, 9), (3, 10), (5, 8.6)]],
    "a by hand": [[(5, 5), (2.5, 4), (0.5, 7), (2.5, 10), (5, 8)], [(5, 4), (5, 8), (5.8, 10)]],
    "c": [[(5, 5), (3, 4), (0.5, 7), (3, 10), (5, 9)]],
    "d": [[(5, 6), (2.5, 4.4), (0.5, 7), (2.5, 10), (5, 8)], [(5, 0), (5, 10)]],
    "e": [[(0.6, 6.6), (5, 6.6)], [(5, 6.6), (3, 4), (0.5, 6.6), (2.5, 10), (5.4, 9)]],
    "f": [[(5, 1), (3.4, 0), (2.4, 2), (2.4, 10)], [(0.5, 4), (4.5, 4)]],
    "h": [[(0, 0), (0, 10)], [(0, 6), (3, 4), (5, 6), (5, 10)]],
    "j": [[(3, 3), (3, 9), (1.5, 11), (0, 10)], [(2.9, 0.4), (3.1, 0.8)]],
    "k": [[(0, 0), (0, 10)], [(4.5, 4), (0.2, 7.4)], [(1.6, 6.4), (5, 10)]],
    "m": [[(0, 4), (0, 10)], [(0, 5.5), (2, 4), (3.4, 5.5), (3.5, 10)], [(3.5, 5.5), (5.4, 4), (7, 5.6), (7, 10)]],
    "n": [[(0, 4), (0, 10)], [(0, 5.8), (2.8, 4), (5, 6), (5, 10)]],
    "p": [[(0, 4), (0, 14)], [(0, 5), (3, 4), (5, 7), (3, 10), (0, 9)]],
    "r": [[(0, 4), (0, 10)], [(0, 6.4), (1.8, 4.4), (4, 4.4)]],
    "t": [[(2, 0), (2, 8), (3.4, 10), (5, 9)], [(0, 3.6), (4.5, 3.6)]],
    "u": [[(0, 4), (0.3, 8.6), (2.5, 10), (5, 8)], [(5, 4), (5, 10)]],
    "y": [[(0, 4), (2.6, 9.5)], [(5, 4), (1, 14)]],
}


def curve(points: Sequence[tuple[float, float]] | np.ndarray) -> np.ndarray:
    """A stroke through the given points, as many close ones `[n, 2]`: a centripetal cubic spline."""
    from scipy.interpolate import CubicSpline  # late: it takes a quarter of a second, and seldom is a letter drawn

    through = np.asarray(points, float)
    places = np.r_[0, np.cumsum(np.linalg.norm(np.diff(through, axis=0), axis=1) ** 0.5)]
    return CubicSpline(places, through)(np.linspace(0, places[-1], 50 * len(through)))


def trace(draw: ImageDraw.ImageDraw, line: np.ndarray, pen: int, ink: str | int) -> None:
    """Draws close points `[n, 2]` with a round pen that is so many pixels wide."""
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
    places = np.linspace(0, along[-1], 2 + int(6 * along[-1] / pen))  # a dot overlaps the next by five sixths
    for x, y in zip(*(np.interp(places, along, axis) for axis in line.T), strict=True):
        draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=ink)


def scribbled_letters(count: int) -> np.ndarray:
    """`count` images as in MNIST of each letter, all different and always the same: uint8 `[N, 28, 28]`."""
    random = np.random.default_rng(0)
    return np.stack([_scribble(strokes, random) for strokes in LETTERS.values() for _ in range(count)])


def _scribble(strokes: Strokes, random: np.random.Generator) -> np.ndarray:
    """One in a hand of its own: wide or narrow, slanted, turned, with a fine or broad pen, and not exact."""
    angle, slant, stretch = random.uniform((-0.2, -0.35, 0.6), (0.2, 0.35, 1.3))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = 8 * turned @ [[stretch, slant], [0, 1]]  # pixels for a tenth of the height
    pen = int(random.integers(6, 18))
    lines = [curve(np.array(points) + random.normal(0, 0.25, (len(points), 2))) @ matrix.T for points in strokes]
    corner = np.concatenate(lines).min(axis=0) - pen
    width, height = (int(side) for side in np.concatenate(lines).max(axis=0) - corner + pen)
    paper = Image.new("L", (width, height))
    draw = ImageDraw.Draw(paper)
    for line in lines:
        trace(draw, line - corner, pen, 255)
    return as_mnist(np.asarray(paper) / 255, 0.5)[0]

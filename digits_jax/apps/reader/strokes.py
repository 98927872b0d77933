"""Handwritten digits and letters as pen strokes."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from digits_jax.apps.reader.normalization import normalize

Strokes = Sequence[Sequence[tuple[float, float]]]  # points (x, y) in tenths of a digit's height, y down

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

# The letters that nobody takes for a digit when they stand alone; v, w and x look like their capitals.
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
    """Returns closely spaced points `[n, 2]` on a centripetal cubic spline through the given points."""
    from scipy.interpolate import CubicSpline  # late: takes a quarter of a second, and only training the detector draws

    knots = np.asarray(points, float)
    parameters = np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1) ** 0.5)]
    return CubicSpline(parameters, knots)(np.linspace(0, parameters[-1], 50 * len(knots)))


def trace(draw: ImageDraw.ImageDraw, line: np.ndarray, width: int, color: str | int) -> None:
    """Draws a line through closely spaced points `[n, 2]` with a round pen `width` pixels wide."""
    lengths = np.r_[0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
    centers = np.linspace(0, lengths[-1], 2 + int(6 * lengths[-1] / width))  # neighboring dots overlap by five sixths
    for x, y in zip(*(np.interp(centers, lengths, axis) for axis in line.T), strict=True):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=color)


def letter_images(count: int) -> np.ndarray:
    """Draws `count` variations of each letter in MNIST's format, the same at every call: uint8 `[N, 28, 28]`."""
    return np.stack([normalize(ink, 0.5)[0] for ink in draw_letters(count)])


def draw_letters(count: int) -> Iterator[np.ndarray]:
    """Draws `count` variations of each letter, the same at every call; yields the ink of each, `[H, W]` in [0, 1]."""
    rng = np.random.default_rng(0)
    return (_draw_letter(strokes, rng) for strokes in LETTERS.values() for _ in range(count))


def _draw_letter(strokes: Strokes, rng: np.random.Generator) -> np.ndarray:
    """Draws a letter with random stretch, slant, rotation and stroke width, and with jittered points."""
    angle, slant, stretch = rng.uniform((-0.2, -0.35, 0.6), (0.2, 0.35, 1.3))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = 8 * rotation @ [[stretch, slant], [0, 1]]  # 8 pixels per tenth of the height
    width = int(rng.integers(6, 18))
    lines = [curve(np.array(points) + rng.normal(0, 0.25, (len(points), 2))) @ matrix.T for points in strokes]
    corner = np.concatenate(lines).min(axis=0) - width
    size = (np.concatenate(lines).max(axis=0) - corner + width).astype(int)
    paper = Image.new("L", tuple(size.tolist()))
    for line in lines:
        trace(ImageDraw.Draw(paper), line - corner, width, 255)
    return np.asarray(paper) / 255

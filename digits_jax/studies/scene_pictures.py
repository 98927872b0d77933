"""Draws pictures of digits as people take them, of several kinds, from fixed seeds."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from digits_jax.apps.reader.strokes import DIGITS, curve, trace
from digits_jax.studies.renderings import to_picture

NUM_PICTURES = 130  # of each kind
Random = np.random.Generator
_FINE = 3  # pictures are drawn so much larger, then reduced, for smooth edges
_SEGMENTS = {  # of a seven-segment display, in tenths of its height
    "a": ((0, 0), (5, 0)), "b": ((5, 0), (5, 5)), "c": ((5, 5), (5, 10)), "d": ((0, 10), (5, 10)),
    "e": ((0, 5), (0, 10)), "f": ((0, 0), (0, 5)), "g": ((0, 5), (5, 5)),
}  # fmt: skip
_LIT = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")  # by digit


class Style(NamedTuple):
    """A pen on paper."""

    height: float  # of a digit, in pixels
    pen: float  # width of a stroke, in pixels
    paper: tuple[int, int, int]
    ink: tuple[int, int, int]


def draw_one(random: Random) -> tuple[Image.Image, str]:
    """Draws a digit."""
    return _written(random, _digits(random, 1))


def draw_several(random: Random) -> tuple[Image.Image, str]:
    """Draws two to five digits with space between them."""
    return _written(random, _digits(random, random.integers(2, 6)))


def draw_touching(random: Random) -> tuple[Image.Image, str]:
    """Draws two or three digits, of which two or all three touch."""
    return _written(random, _digits(random, random.integers(2, 4)), touching=True)


def draw_photograph(random: Random) -> tuple[Image.Image, str]:
    """Draws one to four digits, photographed: from the side, in uneven light, blurred, with grain."""
    picture, text = _written(random, _digits(random, random.integers(1, 5)), style=_pen_on_paper(random))
    return _photographed(random, _seen_from_the_side(random, picture, fill=picture.getpixel((0, 0)))), text


def draw_shadow(random: Random) -> tuple[Image.Image, str]:
    """Draws one to four digits with the hard edge of a shadow across the paper."""
    picture, text = _written(random, _digits(random, random.integers(1, 5)), style=_pen_on_paper(random))
    y, x = np.mgrid[0 : picture.height, 0 : picture.width]
    angle, offset = random.uniform(0, 2 * np.pi), random.uniform(-0.25, 0.25) * max(picture.size)
    side = (x - picture.width / 2) * np.cos(angle) + (y - picture.height / 2) * np.sin(angle) - offset
    shade = 1 - random.uniform(0.15, 0.4) / (1 + np.exp(-side / random.uniform(1.0, 6.0)).clip(max=1e9))
    return _photographed(random, to_picture(np.asarray(picture, float) * shade[..., None])), text


def draw_sheet(random: Random) -> tuple[Image.Image, str]:
    """Draws one to four digits on a sheet or a note, with the desk around it, photographed."""
    picture, text = _written(random, _digits(random, random.integers(1, 5)), style=_pen_on_paper(random))
    color = np.array(random.choice([(94, 66, 44), (58, 60, 64), (120, 86, 58), (40, 62, 58), (128, 124, 120)]))
    margin = random.uniform(0.12, 0.4, 4) * max(picture.size)
    left, top, right, bottom = margin.astype(int).tolist()
    height, width = picture.height + top + bottom, picture.width + left + right
    grain = ndimage.gaussian_filter(random.normal(size=(height, width)), (1.0, random.uniform(1, 25)))
    desk = color + grain[..., None] / grain.std() * random.uniform(2, 9)
    mask = Image.new("L", (width, height))
    mask.paste(255, (left, top, left + picture.width, top + picture.height))
    scene = to_picture(desk)
    paper = Image.new("RGB", (width, height))
    paper.paste(picture, (left, top))
    corners = _corners(random, (width, height), 0.06)
    angle = random.uniform(-12, 12)
    paper, mask = (_warped(layer.rotate(angle, Image.Resampling.BICUBIC), corners) for layer in (paper, mask))
    scene.paste(paper, mask=mask)
    return _photographed(random, scene), text


def draw_form(random: Random) -> tuple[Image.Image, str]:
    """Draws one to five digits in the boxes of a form."""
    style, text = _pen_on_paper(random), _digits(random, random.integers(1, 6))
    side = 1.5 * style.height
    lines, margin = [], 0.5 * style.height
    for i, digit in enumerate(text):
        shape = _shape(random, digit, style.height)
        center = (np.nanmin(shape, axis=0) + np.nanmax(shape, axis=0)) / 2
        middle = np.array([margin + (i + 0.5) * side, margin + side / 2])
        lines += [line + middle - center for line in _lines(shape)]
    size = (2 * margin + side * len(text), 2 * margin + side)
    canvas = _Canvas(size, style.paper)
    color = tuple(int(random.uniform(0.2, 0.75) * level) for level in style.paper)
    for i in range(len(text)):
        canvas.frame((margin + i * side, margin, margin + (i + 1) * side, margin + side), color, random.uniform(1, 2.5))
    canvas.trace(lines, style.pen, style.ink)
    return canvas.picture(), text


def draw_ruled(random: Random) -> tuple[Image.Image, str]:
    """Draws one to five digits on ruled or squared paper."""
    style, text = _pen_on_paper(random), _digits(random, random.integers(1, 6))
    lines, size = _line_of(random, text, style)
    canvas = _Canvas(size, style.paper)
    color = tuple(np.array(style.paper) - random.integers(25, 90, 3) * np.array([1, 1, 0]))
    spacing = random.uniform(0.35, 1.6) * style.height
    vertical = random.random() < 0.5
    for along, length in ((1, size[1]), *(((0, size[0]),) if vertical else ())):
        for at in np.arange(random.uniform(0.2, 1) * spacing, length, spacing):
            canvas.rule(along, at, color, random.uniform(0.8, 2.0))
    canvas.trace(lines, style.pen, style.ink)
    return canvas.picture(), text


def draw_dash(random: Random) -> tuple[Image.Image, str]:
    """Draws two to four digits with a minus sign before or a dash between them."""
    text = _digits(random, random.integers(2, 5))
    at = random.integers(0, len(text))
    return _written(random, f"{text[:at]}-{text[at:]}")[0], text


def draw_point(random: Random) -> tuple[Image.Image, str]:
    """Draws two to four digits with a decimal point or comma between them."""
    text = _digits(random, random.integers(2, 5))
    at = random.integers(1, len(text))
    return _written(random, f"{text[:at]}{random.choice(list('.,'))}{text[at:]}")[0], text


def draw_broken(random: Random) -> tuple[Image.Image, str]:
    """Draws one to four digits whose strokes are interrupted, by gaps thinner than the stroke."""
    style, text = _pen_on_paper(random), _digits(random, random.integers(1, 5))
    lines, size = _line_of(random, text, style)
    canvas = _Canvas(size, style.paper)
    canvas.trace(lines, style.pen, style.ink)
    for line in lines:
        for _ in range(random.integers(1, 3)):
            at = int(random.uniform(0.15, 0.85) * len(line))
            direction = line[min(at + 3, len(line) - 1)] - line[max(at - 3, 0)]
            across = np.array([-direction[1], direction[0]]) / max(np.linalg.norm(direction), 1e-6)
            ends = line[at] + np.outer((-1, 1), across) * style.pen
            canvas.trace([ends], random.uniform(0.25, 0.8) * style.pen, style.paper)
    return canvas.picture(), text


def draw_outlined(random: Random) -> tuple[Image.Image, str]:
    """Draws one to three digits as outlines."""
    style, text = _style(random), _digits(random, random.integers(1, 4))
    lines, size = _line_of(random, text, style, spacing=(0.45, 0.7))
    canvas = _Canvas(size, style.paper)
    canvas.trace(lines, 0.24 * style.height, style.ink)
    canvas.trace(lines, random.uniform(0.13, 0.18) * style.height, style.paper)
    return canvas.picture(), text


def draw_segments(random: Random) -> tuple[Image.Image, str]:
    """Draws one to four digits as a seven-segment display shows them."""
    style, text = _style(random), _digits(random, random.integers(1, 5))
    unit, slant = style.height / 10, random.uniform(0, 0.15)
    width, gap = random.uniform(0.7, 1.3), random.uniform(0.2, 0.7)
    lines = []
    for i, digit in enumerate(text):
        for name in _LIT[int(digit)]:
            start, end = np.array(_SEGMENTS[name], float)
            inset = (width / 2 + gap / 2) * (end - start) / np.linalg.norm(end - start)
            points = np.array([start + inset, end - inset]) + np.array([9 * i + 5, 5])
            points[:, 0] += slant * (10 - points[:, 1])
            lines.append(points * unit)
    canvas = _Canvas((unit * (9 * len(text) + 7), 20 * unit), style.paper)
    canvas.trace(lines, width * unit, style.ink)
    return canvas.picture(), text


# The lists and constants of this file were fixed before anything was measured on these pictures.
KINDS: dict[str, Callable[[Random], tuple[Image.Image, str]]] = {
    "one digit": draw_one,
    "several digits": draw_several,
    "touching digits": draw_touching,
    "photographed": draw_photograph,
    "in a hard shadow": draw_shadow,
    "a sheet on a desk": draw_sheet,
    "boxes of a form": draw_form,
    "ruled paper": draw_ruled,
    "minus or dash": draw_dash,
    "decimal point or comma": draw_point,
    "broken strokes": draw_broken,
    "outlined": draw_outlined,
    "seven segments": draw_segments,
}


def pictures_of(kind: str, *, seed: int = 0, count: int = NUM_PICTURES) -> list[tuple[Image.Image, str]]:
    """Draws pictures of a kind with their digits, the same at each call. Seed 0 is for measuring only."""
    random = np.random.default_rng([seed, *kind.encode()])
    return [KINDS[kind](random) for _ in range(count)]


def picture_of(text: str, *, seed: int) -> Image.Image:
    """Draws digits and marks beside each other, the same at each call."""
    return _written(np.random.default_rng([seed, *text.encode()]), text)[0]


class _Canvas:
    """A picture that is drawn in fine pixels."""

    def __init__(self, size: Sequence[float], paper: tuple[int, ...]) -> None:
        width, height = (max(16, round(side)) for side in size)
        self._size = width, height
        self._fine = Image.new("RGB", (_FINE * width, _FINE * height), paper)
        self._draw = ImageDraw.Draw(self._fine)

    def trace(self, lines: Sequence[np.ndarray], width: float, color: tuple[int, ...]) -> None:
        for line in lines:
            trace(self._draw, _FINE * line, max(1, round(_FINE * width)), f"rgb{tuple(map(int, color))}")

    def frame(self, box: tuple[float, ...], color: tuple[int, ...], width: float) -> None:
        fine = tuple(_FINE * side for side in box)
        self._draw.rectangle(fine, outline=tuple(map(int, color)), width=max(1, round(_FINE * width)))

    def rule(self, axis: int, at: float, color: tuple[int, ...], width: float) -> None:
        end = self._fine.size[1 - axis]
        points = [(0, _FINE * at), (end, _FINE * at)] if axis else [(_FINE * at, 0), (_FINE * at, end)]
        self._draw.line(points, fill=tuple(map(int, color)), width=max(1, round(_FINE * width)))

    def picture(self) -> Image.Image:
        return self._fine.resize(self._size, Image.Resampling.BOX)


def _digits(random: Random, count: int | np.integer) -> str:
    return "".join(map(str, random.integers(0, 10, count)))


def _style(random: Random) -> Style:
    """Returns any two colors that differ enough, dark on light or the inverse."""
    paper, ink = random.integers(0, 256, (2, 3))
    while abs((paper - ink) @ (0.299, 0.587, 0.114)) < 80:
        paper, ink = random.integers(0, 256, (2, 3))
    height = random.uniform(50, 180)
    return Style(height, random.uniform(0.05, 0.14) * height, tuple(paper.tolist()), tuple(ink.tolist()))


def _pen_on_paper(random: Random) -> Style:
    paper = random.integers(205, 256) - random.integers(0, 25, 3)
    ink = random.integers(10, 60) + random.integers(0, 70, 3) * random.integers(0, 2, 3)
    height = random.uniform(60, 180)
    return Style(height, random.uniform(0.04, 0.1) * height, tuple(paper.tolist()), tuple(ink.tolist()))


def _shape(random: Random, digit: str, height: float) -> np.ndarray:
    """Returns a digit in a random hand: the points of its lines `[n, 2]` in pixels, separated by rows of NaN."""
    angle, slant, stretch = random.uniform((-0.12, -0.1, 0.75), (0.12, 0.3, 1.2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = height / 10 * rotation @ [[stretch, -slant], [0, 1]]
    lines = [curve(np.array(points) + random.normal(0, 0.2, (len(points), 2))) @ matrix.T for points in DIGITS[digit]]
    return np.concatenate([np.vstack([line, [[np.nan, np.nan]]]) for line in lines])[:-1]


def _lines(shape: np.ndarray) -> list[np.ndarray]:
    cuts = np.flatnonzero(np.isnan(shape[:, 0]))
    return [part[~np.isnan(part[:, 0])] for part in np.split(shape, cuts)]


def _mark(random: Random, mark: str, height: float) -> np.ndarray:
    """Returns a dash in the middle of the line, or a point or comma at its bottom, as `_shape` returns a digit."""
    if mark == "-":
        width, tilt = random.uniform(0.3, 0.6), random.uniform(-0.04, 0.04)
        return height * np.array([[0, 0.55], [width / 2, 0.55 + tilt / 2], [width, 0.55 + tilt]])
    drop = 0.03 if mark == "." else random.uniform(0.12, 0.2)
    return height * np.array([[0, 0.98], [-drop / 6, 0.98 + drop / 2], [-drop / 2, 0.98 + drop]])


def _line_of(
    random: Random, text: str, style: Style, *, spacing: tuple[float, float] = (0.2, 0.5), touching: bool = False
) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Writes digits and marks beside each other; returns their lines, and the size of a picture around them."""
    lines: list[np.ndarray] = []
    right = 0.0
    for i, symbol in enumerate(text):
        shape = _shape(random, symbol, style.height) if symbol.isdigit() else _mark(random, symbol, style.height)
        shape = shape - (np.nanmin(shape[:, 0]), 0)
        if i and touching and (i == 1 or random.random() < 0.5):
            before, points = (np.concatenate(part)[::4] for part in (lines, _lines(shape)))
            # The digit moves left until its strokes come as close to those before it as a pen is wide, or less.
            rows = abs(before[:, None, 1] - points[None, :, 1]) < 0.5 * style.pen
            overlaps = np.where(rows, before[:, None, 0] - points[None, :, 0], -np.inf)
            left = overlaps.max() + random.uniform(0.0, 0.8) * style.pen
            left = left if np.isfinite(left) else right
        else:
            left = right + random.uniform(*spacing) * style.height + style.pen if i else 0.0
        shape = shape + np.array([left, random.normal(0, 0.03) * style.height])
        lines += _lines(shape)
        right = max(right, float(np.nanmax(shape[:, 0])))
    points = np.concatenate(lines)
    corner = points.min(axis=0) - random.uniform(0.25, 0.9, 2) * style.height
    size = points.max(axis=0) + random.uniform(0.25, 0.9, 2) * style.height - corner
    return [line - corner for line in lines], tuple(size.tolist())


def _written(
    random: Random, text: str, *, style: Style | None = None, touching: bool = False
) -> tuple[Image.Image, str]:
    style = style or _style(random)
    lines, size = _line_of(random, text, style, touching=touching)
    canvas = _Canvas(size, style.paper)
    canvas.trace(lines, style.pen, style.ink)
    return canvas.picture(), text


def _photographed(random: Random, picture: Image.Image) -> Image.Image:
    """Imitates a camera: uneven light, blur, grain and JPEG's range of colors."""
    pixels = ndimage.gaussian_filter(np.asarray(picture, float), (*[random.uniform(0.3, 1.6)] * 2, 0))
    y, x = np.mgrid[0 : picture.height, 0 : picture.width]
    angle = random.uniform(0, 2 * np.pi)
    light = (x / picture.width - 0.5) * np.cos(angle) + (y / picture.height - 0.5) * np.sin(angle)
    pixels *= (1 - random.uniform(0.05, 0.45) * (light + 0.7) / 1.4)[..., None] * random.uniform(0.9, 1.05, 3)
    return to_picture(pixels + random.normal(0, random.uniform(1, 7), pixels.shape))


def _corners(random: Random, size: tuple[int, int], amount: float) -> np.ndarray:
    """Returns the corners of a picture, each moved inward at random."""
    width, height = size
    inward = random.uniform(0, amount, (4, 2)) * (width, height) * [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    return np.array([(0, 0), (width, 0), (width, height), (0, height)]) + inward


def _warped(picture: Image.Image, corners: np.ndarray, fill: Any = None) -> Image.Image:
    """Moves the corners of a picture to new places, in perspective."""
    width, height = picture.size
    source = [(0, 0), (width, 0), (width, height), (0, height)]
    rows, values = [], []
    for (x, y), (u, v) in zip(corners.tolist(), source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    data = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return picture.transform(picture.size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BICUBIC, fillcolor=fill)


def _seen_from_the_side(random: Random, picture: Image.Image, fill: Any) -> Image.Image:
    turned = picture.rotate(random.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True, fillcolor=fill)
    return _warped(turned, _corners(random, turned.size, 0.08), fill)

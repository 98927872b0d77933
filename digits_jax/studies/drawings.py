"""Draws the README's picture of the digit reader: `python -m digits_jax.studies.drawings --workdir=W`"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from digits_jax import cli
from digits_jax.apps.command_flags import CHECKPOINT
from digits_jax.apps.reader.strokes import DIGITS, LETTERS, Strokes, curve, trace
from digits_jax.studies.docs import DOCS

_STAR: Strokes = [
    [(3, 0), (4.8, 6.4)], [(4.8, 6.4), (0, 2.6)], [(0, 2.6), (6, 2.4)], [(6, 2.4), (1.2, 6.4)], [(1.2, 6.4), (3, 0)],
]  # fmt: skip
_SYMBOLS = {**DIGITS, **LETTERS, "star": _STAR}


def draw(
    names: Sequence[str], *, size: tuple[int, int], paper: str, ink: str, height: float, width: float, slant: float = 0
) -> Image.Image:
    """Draws digits, letters and stars side by side, in the middle of a picture of a size (width, height) in pixels.

    `height` is that of a symbol and `width` that of a stroke in pixels; `slant` is in pixels to the right per pixel up.
    """
    factor = 3  # drawn larger, then reduced, for smooth edges
    unit = factor * height / 10
    picture = Image.new("RGB", (factor * size[0], factor * size[1]), paper)
    pen = ImageDraw.Draw(picture)
    left = (picture.width - unit * (8.5 * len(names) - 2.5)) / 2
    top = (picture.height - 10 * unit) / 2
    for i, name in enumerate(names):
        for points in _SYMBOLS[name]:
            x, y = curve(points).T
            x = left + unit * (x + 8.5 * i + slant * (5 - y))
            trace(pen, np.stack([x, top + unit * y], axis=1), round(factor * width), ink)
    return picture.resize(size, Image.Resampling.BOX)


def photographed(picture: Image.Image, *, light: float, grain: float, seed: int) -> Image.Image:
    """Imitates a photograph: `light` gray levels darker toward a corner, slightly blurred, with grain."""
    pixels = ndimage.gaussian_filter(np.asarray(picture, float), (0.8, 0.8, 0))
    y, x = np.mgrid[0 : picture.height, 0 : picture.width]
    shadow = light * (x / picture.width + y / picture.height)[..., None] / 2
    pixels += np.random.default_rng(seed).normal(0, grain, pixels.shape) - shadow
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def pictures() -> list[Image.Image]:
    """Draws the pictures that the README shows."""
    square, wide = (240, 240), (330, 240)
    board = draw("174", size=wide, paper="#2f5d50", ink="#f4f4ee", height=110, width=9)
    pencil = draw("5", size=square, paper="#ded9d2", ink="#77757a", height=120, width=3.5)
    return [
        draw("3", size=square, paper="#fff3b0", ink="#1d3f8a", height=150, width=13, slant=0.1),
        photographed(board, light=60, grain=4, seed=0),
        photographed(pencil, light=70, grain=3, seed=1),
        draw("9086", size=wide, paper="#ffffff", ink="#111111", height=70, width=5, slant=0.25),
        draw("2", size=square, paper="#b3261e", ink="#f7c948", height=60, width=9, slant=-0.2),
        draw(["star"], size=square, paper="#f3e8ff", ink="#5b21b6", height=170, width=11),
    ]


def main(argv: list[str]) -> None:
    workdir = cli.required("workdir", "runs/bn_dropout/0123abcd")
    from digits_jax.apps.reader.contact_sheet import draw_cell, draw_sheet
    from digits_jax.apps.reader.digit_reader import load_reader
    from digits_jax.apps.reader.pictures import to_pixels

    reader = load_reader(workdir, checkpoint=CHECKPOINT.value)
    cells = [draw_cell(pixels, reader.read(pixels).digits) for pixels in map(to_pixels, pictures())]
    draw_sheet(cells, columns=2).quantize(128).save(Path(DOCS.value) / "predict.png", optimize=True)


if __name__ == "__main__":
    cli.run(main)

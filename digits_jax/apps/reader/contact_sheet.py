"""A picture of the model's inputs: each picture with its digits framed, and beside it the normalized digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digits_jax.apps.reader.digit_reader import Reading
from digits_jax.apps.reader.normalization import SIZE
from digits_jax.errors import UserError

_HEIGHT, _GAP, _CAPTION = 168, 12, 24  # pixels: the height of a row, the space between items, the height of a caption
_TILE = (_HEIGHT - _CAPTION) // SIZE * SIZE  # pixels: the side of a digit
_FILE_ROWS, _FILE_PIXELS = 100, 10_000_000  # a file with more rows or pixels is followed by another
_WHITE, _TEXT, _REJECTED, _FRAME = "#ffffff", "#1b1c1e", "#8f4700", "#d55e00"


class ContactSheet:
    """Writes a row per picture to PNG files: `seen.png`, and for many pictures `seen-2.png` and so on.

    Keeps the rows of one file in memory.
    """

    def __init__(self, path: str) -> None:
        self._path, self._cells, self._files = Path(path), list[Image.Image](), 0

    def add(self, pixels: np.ndarray, readings: Sequence[Reading], name: str) -> None:
        """Adds a picture, given by its pixels `[H, W, 4]`."""
        self._cells.append(draw_cell(pixels, readings, name))
        rows = len(self._cells)
        if rows == _FILE_ROWS or rows * _HEIGHT * max(cell.width for cell in self._cells) > _FILE_PIXELS:
            self.save()

    def save(self) -> None:
        """Writes the pictures that are not in a file yet; raises a UserError if it cannot."""
        if not self._cells:
            return
        self._files += 1
        path = self._path.with_stem(f"{self._path.stem}-{self._files}") if self._files > 1 else self._path
        try:
            draw_sheet(self._cells).save(path, "PNG")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path} cannot be written ({reason}): give another, --show=FILE") from None
        self._cells.clear()


def draw_sheet(cells: Sequence[Image.Image], *, columns: int = 1) -> Image.Image:
    """Draws a grid of what `draw_cell` returns, `columns` to a row."""
    widths = [max(cell.width for cell in cells[column::columns]) for column in range(min(columns, len(cells)))]
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), rows * (_HEIGHT + _GAP) + _GAP), _WHITE)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        sheet.paste(cell, (_GAP + sum(widths[:column]) + column * _GAP, _GAP + row * (_HEIGHT + _GAP)))
    return sheet


def draw_cell(pixels: np.ndarray, readings: Sequence[Reading], name: str = "") -> Image.Image:
    """Draws a small picture, given by its pixels `[H, W, 4]`, its name below it, and its digits beside it."""
    height, width = pixels.shape[:2]
    box = _TILE if name else _HEIGHT
    scale = min(_HEIGHT / width, box / height)
    picture = Image.fromarray((255 * (pixels[..., :3] + 1 - pixels[..., 3:])).clip(0, 255).astype(np.uint8))
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for reading in readings:
        left, top, right, bottom = (scale * side for side in reading.box)
        draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=_FRAME)
    cell = Image.new("RGB", (_HEIGHT + (_GAP + _TILE) * len(readings), _HEIGHT), _WHITE)
    cell.paste(picture, ((_HEIGHT - picture.width) // 2, (box - picture.height) // 2))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(16)
    draw.text((0, _TILE + 3), _shorten(name, font), fill=_TEXT, font=font)
    for i, reading in enumerate(readings):
        left = _HEIGHT + _GAP + i * (_TILE + _GAP)
        cell.paste(Image.fromarray(reading.image).resize((_TILE, _TILE), Image.Resampling.NEAREST), (left, 0))
        caption = f"{reading.digit}   {reading.probabilities.max():.1%}"
        text, color = (caption, _TEXT) if reading.warning is None else (f"?   ({caption})", _REJECTED)
        draw.text((left, _TILE + 3), text, fill=color, font=font)
    return cell


def _shorten(name: str, font: Any) -> str:
    """Cuts the middle out of a name that is wider than a picture; its end often has the number."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    shortened, kept = name, len(name)
    while font.getlength(shortened) > _HEIGHT:
        kept -= 1
        shortened = f"{name[: kept // 2]}...{name[-(kept - kept // 2) :]}"
    return shortened

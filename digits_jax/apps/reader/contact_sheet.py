"""A picture of what the network saw: each picture, and beside it its digits as they were put to the network."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digits_jax.apps.reader.digit_images import SIZE
from digits_jax.apps.reader.digit_reader import Reading
from digits_jax.errors import UserError

_ROW, _GAP, _CAPTION = 168, 12, 24  # pixels: a row's height, what is between two things, a line of text
_SCALE = (_ROW - _CAPTION) // SIZE
_PAPER, _TEXT, _DOUBT, _FRAME = "#ffffff", "#1b1c1e", "#8f4700", "#d55e00"


def draw_sheet(answers: Sequence[tuple[np.ndarray, Sequence[Reading]]], *, columns: int = 1) -> Image.Image:
    """A row for each picture, or for `columns` of them: the picture with its digits framed, then the digits, captioned.

    Args:
      answers: pictures `[H, W, 4]`, as of `pictures.Picture`, and what was read in them.
      columns: how many pictures go beside each other.
    """
    cells = [_cell(pixels, readings) for pixels, readings in answers]
    widths = [max(cell.width for cell in cells[column::columns]) for column in range(min(columns, len(cells)))]
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), rows * (_ROW + _GAP) + _GAP), _PAPER)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        sheet.paste(cell, (_GAP + sum(widths[:column]) + column * _GAP, _GAP + row * (_ROW + _GAP)))
    return sheet


def _cell(pixels: np.ndarray, readings: Sequence[Reading]) -> Image.Image:
    height, width = pixels.shape[:2]
    scale = _ROW / max(height, width)
    picture = Image.fromarray((255 * (pixels[..., :3] + 1 - pixels[..., 3:])).clip(0, 255).astype(np.uint8))
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for reading in readings:
        left, top, right, bottom = (scale * side for side in reading.box)
        draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=_FRAME)
    tile = SIZE * _SCALE
    cell = Image.new("RGB", (_ROW + (_GAP + tile) * len(readings), _ROW), _PAPER)
    cell.paste(picture, ((_ROW - picture.width) // 2, (_ROW - picture.height) // 2))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(16)
    for i, reading in enumerate(readings):
        left = _ROW + _GAP + i * (tile + _GAP)
        cell.paste(Image.fromarray(reading.image).resize((tile, tile), Image.Resampling.NEAREST), (left, 0))
        caption = f"{reading.digit}   {100 * reading.probabilities.max():.1f} %"
        text, colour = (caption, _TEXT) if reading.warning is None else (f"?   ({caption})", _DOUBT)
        draw.text((left, tile + 3), text, fill=colour, font=font)
    return cell


def save_sheet(answers: Sequence[tuple[np.ndarray, Sequence[Reading]]], path: str) -> None:
    """Saves what `draw_sheet` draws; raises a UserError where the file cannot be written."""
    try:
        draw_sheet(answers).save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): give another, --show=FILE") from None

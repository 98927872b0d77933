"""A picture of the model's inputs: each picture with its digits framed, and beside it the normalized digits."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digits_jax.apps.reader.digit_reader import Reading
from digits_jax.apps.reader.normalization import SIZE

_HEIGHT, _GAP, _CAPTION = 168, 12, 24  # pixels: the height of a row, the space between items, the height of a caption
_TILE = (_HEIGHT - _CAPTION) // SIZE * SIZE  # pixels: the side of a digit
_WHITE, _TEXT, _REJECTED, _FRAME = "#ffffff", "#1b1c1e", "#8f4700", "#d55e00"


def draw_sheet(cells: Sequence[Image.Image], *, columns: int = 1) -> Image.Image:
    """Draws a grid of what `draw_cell` returns, `columns` to a row."""
    widths = [max(cell.width for cell in cells[column::columns]) for column in range(min(columns, len(cells)))]
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), rows * (_HEIGHT + _GAP) + _GAP), _WHITE)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        sheet.paste(cell, (_GAP + sum(widths[:column]) + column * _GAP, _GAP + row * (_HEIGHT + _GAP)))
    return sheet


def draw_cell(pixels: np.ndarray, readings: Sequence[Reading]) -> Image.Image:
    """Draws a small picture, given by its pixels `[H, W, 4]`, and beside it its digits."""
    height, width = pixels.shape[:2]
    scale = _HEIGHT / max(height, width)
    picture = Image.fromarray((255 * (pixels[..., :3] + 1 - pixels[..., 3:])).clip(0, 255).astype(np.uint8))
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for reading in readings:
        left, top, right, bottom = (scale * side for side in reading.box)
        draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=_FRAME)
    cell = Image.new("RGB", (_HEIGHT + (_GAP + _TILE) * len(readings), _HEIGHT), _WHITE)
    cell.paste(picture, ((_HEIGHT - picture.width) // 2, (_HEIGHT - picture.height) // 2))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(16)
    for i, reading in enumerate(readings):
        left = _HEIGHT + _GAP + i * (_TILE + _GAP)
        cell.paste(Image.fromarray(reading.image).resize((_TILE, _TILE), Image.Resampling.NEAREST), (left, 0))
        caption = f"{reading.digit}   {reading.probabilities.max():.1%}"
        text, color = (caption, _TEXT) if reading.warning is None else (f"?   ({caption})", _REJECTED)
        draw.text((left, _TILE + 3), text, fill=color, font=font)
    return cell

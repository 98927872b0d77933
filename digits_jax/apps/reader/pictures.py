"""Reads picture files as they come: any size and mode, damaged or not pictures at all."""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from digits_jax.errors import UserError

# Of the formats that Pillow knows those that need no other program and whose decoders are in wide use.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".pbm", ".pgm", ".ppm")
_LARGEST_FILE = 50_000_000  # bytes
_LARGEST = 64_000_000  # pixels: a telephone's camera has fewer
_SIDE = 1024  # pixels of the longer side; what is larger is reduced


class Picture(NamedTuple):
    """A picture's first frame.

    Attributes:
      pixels: float32 `[H, W, 4]` from 0 to 1: red, green and blue, premultiplied, and alpha.
      frames: how many there are.
    """

    pixels: np.ndarray
    frames: int


def files_of(arguments: Iterable[str]) -> Iterator[str]:
    """The files that arguments stand for: of a folder those whose names end like a picture's, in alphabetical order.

    Raises:
      UserError: a folder has none.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == "-" or not path.is_dir():
            yield argument
            continue
        files = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise UserError(f"{argument} has no pictures: expected files that end in {', '.join(_SUFFIXES)}")
        yield from files


def read_picture(file: str) -> Picture:
    """Reads a file, or standard input where it is called "-".

    Raises:
      UserError: it cannot be read, is no picture, is damaged, or is too large.
    """
    try:
        with Path(file).open("rb") if file != "-" else contextlib.nullcontext(sys.stdin.buffer) as source:
            content = source.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): expected a picture") from None
    return decode_picture(content, "standard input" if file == "-" else file)


def decode_picture(content: bytes, name: str) -> Picture:
    """Decodes a file's content; `name` is what messages call it.

    Raises:
      UserError: it is no picture, is damaged, or is too large.
    """
    if not content:
        raise UserError(f"{name} is empty: expected a picture")
    if len(content) > _LARGEST_FILE:
        raise UserError(f"{name} is larger than {_LARGEST_FILE // 10**6} MB: expected a smaller picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata and the like; sizes are checked here
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return _decode(image, name)
    except Image.UnidentifiedImageError:
        raise UserError(f"{name} is no picture in a known format: expected one of {', '.join(_FORMATS)}") from None
    except (Image.DecompressionBombError, _TooLarge) as error:
        raise UserError(f"{name} is too large ({error}): expected at most {_LARGEST // 10**6} megapixels") from None
    except Exception as error:  # of a damaged file Pillow's decoders may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} cannot be decoded ({reason}): expected a whole picture") from None


class _TooLarge(Exception):
    """More pixels than are decoded."""


def _decode(image: Image.Image, name: str) -> Picture:
    if image.width * image.height > _LARGEST:
        raise _TooLarge(f"{image.width}x{image.height} pixels")
    frames = getattr(image, "n_frames", 1)
    image.seek(0)
    image.draft("RGB", (_SIDE, _SIDE))  # a large JPEG is decoded at a half, quarter or eighth of its size
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel
        levels = np.asarray(image).astype(np.float32) / 65535
        image = Image.fromarray((255 * levels.clip(0, 1)).round().astype(np.uint8))
    return Picture(to_pixels(image), frames)


def to_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a picture as `Picture` holds them, reduced where there are very many."""
    image = image.convert("RGBA").convert("RGBa")  # premultiplied, so that what is transparent has no colour
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(image).astype(np.float32) / 255

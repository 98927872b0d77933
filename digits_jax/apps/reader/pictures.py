"""Decodes picture files of any size and color mode; refuses those that are damaged or too large."""

import contextlib
import io
import os
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from digits_jax.apps import require_extra
from digits_jax.errors import UserError

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TIFF")  # Pillow needs no other program for these
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 11, after "ftyp"
_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".pbm", ".pgm", ".ppm", ".tif", ".tiff", ".heic", ".heif",
)  # fmt: skip
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # its first bytes
_STDERR = threading.Lock()
_MAX_BYTES = 50_000_000
_MAX_PIXELS = 64_000_000  # more than most phone cameras have
_MAX_SIDE = 1024  # pixels; larger pictures are downsampled

# What Pillow's decoders raise for damaged files. 110,000 mutated ones raised no others than the first four.
_DAMAGED = (OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, OverflowError, struct.error, zlib.error)


class Picture(NamedTuple):
    """The first frame of a picture."""

    pixels: np.ndarray  # float32 [H, W, 4] in [0, 1]: red, green and blue, premultiplied by alpha, and alpha
    frames: int  # number of frames in the file


def list_pictures(path: str) -> list[str]:
    """Returns the pictures in a directory in alphabetical order, or the path itself if there are none."""
    return sorted(str(file) for file in Path(path).glob("*") if file.suffix.lower() in _SUFFIXES) or [path]


def read_picture(file: str) -> Picture:
    """Reads a picture from a file, or from standard input if `file` is "-"; raises a UserError if it cannot."""
    try:
        with Path(file).open("rb") if file != "-" else contextlib.nullcontext(sys.stdin.buffer) as source:
            content = source.read(_MAX_BYTES + 1)
    except IsADirectoryError:
        raise UserError(f"{file} contains no pictures: expected files that end in {', '.join(_SUFFIXES)}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): expected a picture") from None
    return decode_picture(content, "standard input" if file == "-" else file)


def decode_picture(content: bytes, name: str) -> Picture:
    """Decodes the content of a file; raises a UserError if it is not a picture, is damaged, or is too large."""
    if not content:
        raise UserError(f"{name} is empty: expected a picture")
    if len(content) > _MAX_BYTES:
        raise UserError(f"{name} is larger than {_MAX_BYTES // 10**6} MB: expected a smaller picture")
    formats: tuple[str, ...] = _FORMATS
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        require_extra("heic", ("pillow_heif",), needed_by=name)
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats = ("HEIF",)
    try:
        # Warnings are about damaged metadata, and sizes, which are checked here.
        with (
            warnings.catch_warnings(action="ignore"),
            _without_messages(content),
            Image.open(io.BytesIO(content), formats=formats) as image,
        ):
            return _decode(image)
    except Image.UnidentifiedImageError:
        raise UserError(
            f"{name} is not a picture in a known format: expected one of {', '.join(_FORMATS)}, HEIC"
        ) from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} is too large ({error}): expected at most {_MAX_PIXELS // 10**6} megapixels") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} cannot be decoded ({reason}): expected an undamaged picture") from None


@contextlib.contextmanager
def _without_messages(content: bytes) -> Iterator[None]:
    """Discards what libtiff prints about a damaged TIFF, which it does to the process's standard error itself."""
    if content[:4] not in _TIFF:
        yield
        return
    with _STDERR, Path(os.devnull).open("wb") as nowhere:
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _decode(image: Image.Image) -> Picture:
    if image.width * image.height > _MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
    frames = getattr(image, "n_frames", 1)
    image.seek(0)
    image.draft("RGB", (_MAX_SIDE, _MAX_SIDE))  # decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits per pixel
        levels = np.asarray(image).astype(np.float32) / 65535
        image = Image.fromarray((255 * levels.clip(0, 1)).round().astype(np.uint8))
    return Picture(to_pixels(image), frames)


def to_pixels(image: Image.Image) -> np.ndarray:
    """Converts an image to the pixels of a `Picture`, downsampled if it is large."""
    image = image.convert("RGBA").convert("RGBa")  # premultiplied: transparent pixels have no color
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    return np.asarray(image).astype(np.float32) / 255

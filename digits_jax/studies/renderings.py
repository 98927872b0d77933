"""Pictures of digits in fonts, and of out-of-distribution input, drawn from fixed seeds.

The lists and constants here, and `bn_dropout` as the model, were fixed before anything was measured on them.
"""

import string
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from digits_jax.errors import UserError


class Font(NamedTuple):
    family: str
    package: str  # Debian's


PLAIN = (
    Font("DejaVu Sans", "fonts-dejavu-core"),
    Font("DejaVu Serif", "fonts-dejavu-core"),
    Font("Lato", "fonts-lato"),
    Font("Liberation Serif", "fonts-liberation"),
)
HANDWRITING = (
    Font("Because We Create", "fonts-bwht"),
    Font("Breip", "fonts-breip"),
    Font("Comic Neue", "fonts-comic-neue"),
    Font("Dancing Script", "fonts-dancingscript"),
    Font("DkgHandwriting", "fonts-dkg-handwriting"),
    Font("Kaushan Script", "fonts-kaushanscript"),
    Font("Klee One", "fonts-klee"),
    Font("Steve", "fonts-sjfonts"),
)
FONTS = PLAIN + HANDWRITING
RENDERINGS = 20  # of each digit in each font
DIGIT_SHAPED = frozenset("BDGIOQSZbgiloqsz")  # letters that people, too, may read as a digit out of context
NUM_OTHERS = 200  # pictures of each other kind

_SIDE = (64, 512)  # pixels: range of a picture's width and height
_HEIGHT = (0.25, 0.75)  # range of a glyph's height, as a fraction of the picture's shorter side
_CONTRAST = 64  # gray levels between ink and paper, at least
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow converts colors to gray


def font_file(font: Font) -> Path:
    """Returns the file of a font's upright, regular face; raises a UserError if it is not installed."""
    query = ["fc-match", "--format=%{family}\n%{file}", f"{font.family}:slant=0:weight=80"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise UserError("fonts are found with fc-match, which is not installed: apt-get install fontconfig") from None
    family, _, file = found.partition("\n")
    if font.family not in family.split(","):  # fc-match falls back to the nearest font
        raise UserError(f"the font {font.family!r} is not installed: apt-get install {font.package}")
    return Path(file)


def draw_glyph(text: str, file: Path, random: np.random.Generator) -> Image.Image:
    """Draws a glyph of random height, position and colors, dark on light or reversed, in a picture of random size."""
    width, height = _random_size(random)
    wanted = random.uniform(*_HEIGHT) * min(width, height)
    left, top, right, bottom = ImageFont.truetype(file, 200).getbbox(text)
    # A wide letter is made smaller to fit a narrow picture.
    font = ImageFont.truetype(file, 200 * min(wanted / (bottom - top), 0.9 * width / (right - left)))
    left, top, right, bottom = font.getbbox(text)
    x = random.uniform(0.03 * width, 0.97 * width - (right - left))
    y = random.uniform(0.03 * height, 0.97 * height - (bottom - top))
    paper, ink = random.integers(0, 256, (2, 3))
    while abs((paper - ink) @ _LUMA) < _CONTRAST:
        paper, ink = random.integers(0, 256, (2, 3))
    picture = Image.new("RGB", (width, height), tuple(paper.tolist()))
    ImageDraw.Draw(picture).text((x - left, y - top), text, fill=tuple(ink.tolist()), font=font)
    return picture


def draw_blank(random: np.random.Generator) -> Image.Image:
    """Draws a single color; half of the pictures have uneven light and a camera's grain."""
    width, height = _random_size(random)
    pixels = np.broadcast_to(random.integers(0, 256, 3), (height, width, 3)).astype(float)
    if random.random() < 0.5:
        y, x = np.mgrid[0:height, 0:width]
        light = random.uniform(-15, 15) * x / width + random.uniform(-15, 15) * y / height
        pixels = pixels + light[..., None] + random.normal(0, random.uniform(0.5, 4), pixels.shape)
    return to_picture(pixels)


def draw_noise(random: np.random.Generator) -> Image.Image:
    """Draws uniform or normal pixels, salt and pepper, or cloudy blobs."""
    width, height = _random_size(random)
    match random.integers(4):
        case 0:
            return to_picture(random.integers(0, 256, (height, width)))
        case 1:
            return to_picture(random.normal(random.uniform(60, 200), random.uniform(20, 60), (height, width, 3)))
        case 2:
            salt = random.random((height, width)) < random.uniform(0.01, 0.3)
            return to_picture(np.where(salt, random.integers(0, 2, (height, width)) * 255, 128))
        case _:
            blobs = ndimage.gaussian_filter(random.normal(size=(height, width)), random.uniform(1, 8))
            return to_picture(255 * (blobs - blobs.min()) / np.ptp(blobs))


def draw_photograph(random: np.random.Generator) -> Image.Image:
    """Crops one of scikit-learn's two photographs, each side to between a tenth and all of it."""
    from sklearn.datasets import load_sample_images

    pixels = load_sample_images().images[random.integers(2)]
    height, width = (int(side * random.uniform(0.1, 1)) for side in pixels.shape[:2])
    top = random.integers(0, pixels.shape[0] - height, endpoint=True)
    left = random.integers(0, pixels.shape[1] - width, endpoint=True)
    return Image.fromarray(pixels[top : top + height, left : left + width])


def _random_size(random: np.random.Generator) -> tuple[int, int]:
    width, height = random.integers(*_SIDE, 2, endpoint=True).tolist()
    return width, height


def to_picture(pixels: np.ndarray) -> Image.Image:
    """Returns a picture of gray levels or colors, rounded and clipped to 0 to 255."""
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


OTHERS = {"blank": draw_blank, "noise": draw_noise, "photograph": draw_photograph}


def digits_of(font: Font) -> list[tuple[Image.Image, str]]:
    """Draws `RENDERINGS` pictures of each digit; returns them with their digit, the same at each call."""
    return _glyphs(font, 0, (digit for digit in string.digits for _ in range(RENDERINGS)))


def letters_of(font: Font) -> list[tuple[Image.Image, str]]:
    """Draws a picture of each letter; returns them with their letter, the same at each call."""
    return _glyphs(font, 1, string.ascii_letters)


def _glyphs(font: Font, seed: int, glyphs: Iterable[str]) -> list[tuple[Image.Image, str]]:
    file, random = font_file(font), np.random.default_rng([seed, *font.family.encode()])
    return [(draw_glyph(glyph, file, random), glyph) for glyph in glyphs]


def others_of(kind: str) -> list[Image.Image]:
    """Draws `NUM_OTHERS` pictures of a kind of `OTHERS`, the same at each call."""
    random = np.random.default_rng([2, *kind.encode()])
    return [OTHERS[kind](random) for _ in range(NUM_OTHERS)]

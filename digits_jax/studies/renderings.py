"""Pictures of digits in fonts, and of what is no digit, drawn from fixed seeds.

The lists and the numbers here, and `configs/bn_dropout.py` as the model, were fixed before anything was measured on
them.
"""

import string
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from digits_jax.errors import UserError


class Font(NamedTuple):
    """A font family, and the Debian package that has it."""

    family: str
    package: str


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
LETTERS = string.ascii_letters  # each once in each font
DIGIT_SHAPED = frozenset("BDGIOQSZbgiloqsz")  # letters that a person, too, may take for a digit where each stands alone
NON_DIGITS = 200  # pictures of each other kind

_SIDE = (64, 512)  # pixels of a picture's width and height
_HEIGHT = (0.25, 0.75)  # of a glyph, as a share of the picture's shorter side
_CONTRAST = 64  # grey levels between ink and paper, at least
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow turns colours grey


def font_file(font: Font) -> Path:
    """Where fontconfig finds the upright, regular face of a font.

    Raises:
      UserError: it is not installed, or fontconfig is not.
    """
    query = ["fc-match", "--format=%{family}\n%{file}", f"{font.family}:slant=0:weight=80"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise UserError("fonts are found with fc-match, which is not there: apt-get install fontconfig") from None
    family, _, file = found.partition("\n")
    if font.family not in family.split(","):
        raise UserError(f"the font {font.family!r} is not installed: apt-get install {font.package}")
    return Path(file)


def draw_glyph(text: str, file: Path, random: np.random.Generator) -> Image.Image:
    """A picture of random size and colours with a glyph of random height at a random place, light on dark or dark on
    light."""
    width, height = (int(side) for side in random.integers(_SIDE[0], _SIDE[1], 2, endpoint=True))
    wanted = random.uniform(*_HEIGHT) * min(width, height)
    left, top, right, bottom = ImageFont.truetype(file, 200).getbbox(text)
    # A wide letter in a narrow picture is made smaller.
    size = 200 * min(wanted / (bottom - top), 0.9 * width / (right - left))
    font = ImageFont.truetype(file, size)
    left, top, right, bottom = font.getbbox(text)
    x = random.uniform(0.03 * width, 0.97 * width - (right - left))
    y = random.uniform(0.03 * height, 0.97 * height - (bottom - top))
    paper, ink = _colours(random)
    picture = Image.new("RGB", (width, height), paper)
    ImageDraw.Draw(picture).text((x - left, y - top), text, fill=ink, font=font)
    return picture


def _colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    while True:
        paper, ink = random.integers(0, 256, (2, 3))
        if abs((paper - ink) @ _LUMA) >= _CONTRAST:
            return tuple(paper.tolist()), tuple(ink.tolist())


def draw_blank(random: np.random.Generator) -> Image.Image:
    """One colour; in half of them under uneven light and with a camera's grain."""
    width, height = random.integers(_SIDE[0], _SIDE[1], 2, endpoint=True)
    pixels = np.broadcast_to(random.integers(0, 256, 3), (height, width, 3)).astype(float)
    if random.random() < 0.5:
        y, x = np.mgrid[0:height, 0:width]
        light = random.uniform(-15, 15) * x / width + random.uniform(-15, 15) * y / height
        pixels = pixels + light[..., None] + random.normal(0, random.uniform(0.5, 4), pixels.shape)
    return _picture(pixels)


def draw_noise(random: np.random.Generator) -> Image.Image:
    """Uniform or normal pixels, salt and pepper, or cloudy blobs."""
    width, height = random.integers(_SIDE[0], _SIDE[1], 2, endpoint=True)
    match random.integers(4):
        case 0:
            return _picture(random.integers(0, 256, (height, width)))
        case 1:
            return _picture(random.normal(random.uniform(60, 200), random.uniform(20, 60), (height, width, 3)))
        case 2:
            salt = random.random((height, width)) < random.uniform(0.01, 0.3)
            return _picture(np.where(salt, random.integers(0, 2, (height, width)) * 255, 128))
        case _:
            blobs = ndimage.gaussian_filter(random.normal(size=(height, width)), random.uniform(1, 8))
            return _picture(255 * (blobs - blobs.min()) / np.ptp(blobs))


def draw_photograph(random: np.random.Generator) -> Image.Image:
    """A part of one of the two photographs that ship with scikit-learn, from a tenth of its width to all of it."""
    from sklearn.datasets import load_sample_images

    pixels = load_sample_images().images[random.integers(2)]
    height, width = (int(side * random.uniform(0.1, 1)) for side in pixels.shape[:2])
    top = random.integers(0, pixels.shape[0] - height, endpoint=True)
    left = random.integers(0, pixels.shape[1] - width, endpoint=True)
    return Image.fromarray(pixels[top : top + height, left : left + width])


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


OTHERS: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "blank": draw_blank,
    "noise": draw_noise,
    "photograph": draw_photograph,
}


def digits_of(font: Font) -> list[tuple[Image.Image, int]]:
    """`RENDERINGS` pictures of each digit, with the digit; the same at each call."""
    file = font_file(font)
    random = np.random.default_rng([0, *font.family.encode()])
    return [(draw_glyph(str(digit), file, random), digit) for digit in range(10) for _ in range(RENDERINGS)]


def letters_of(font: Font) -> list[tuple[Image.Image, str]]:
    """A picture of each letter, with the letter; the same at each call."""
    file = font_file(font)
    random = np.random.default_rng([1, *font.family.encode()])
    return [(draw_glyph(letter, file, random), letter) for letter in LETTERS]


def others_of(kind: str) -> list[Image.Image]:
    """`NON_DIGITS` pictures of a kind out of `OTHERS`; the same at each call."""
    random = np.random.default_rng([2, *kind.encode()])
    return [OTHERS[kind](random) for _ in range(NON_DIGITS)]

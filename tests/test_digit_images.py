"""Segmentation and normalization of the digits in a picture."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from digits_jax.apps.reader import find_digits, to_pixels
from digits_jax.studies import renderings
from digits_jax.studies.drawings import draw, photographed
from digits_jax.studies.scene_pictures import pictures_of

SQUARE = (200, 200)


def found(picture: Image.Image) -> list[np.ndarray]:
    return [digit.image for digit in find_digits(to_pixels(picture))]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the mean absolute difference in gray levels; drawings of different digits differ by 30 or more."""
    return float(np.abs(a.astype(int) - b).mean())


def plain(symbols: str, **changes: object) -> Image.Image:
    options = {"size": SQUARE, "paper": "#ffffff", "ink": "#000000", "height": 120, "width": 9}
    return draw(symbols, **{**options, **changes})  # type: ignore[arg-type]


def test_the_format_is_that_of_mnist() -> None:
    [image] = found(plain("3"))
    rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    assert np.ptp(rows) == 19
    assert np.ptp(columns) < 19
    # The center of mass of MNIST's own images is within half a pixel of (14, 14), counted from 0.
    assert ndimage.center_of_mass(image) == pytest.approx((14, 14), abs=0.5)
    assert image.max() == 255


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 30, "width": 2.3},
        {"size": (900, 700), "height": 400, "width": 30},
        {"paper": "#000000", "ink": "#ffffff"},
        {"paper": "#c83c3c", "ink": "#3c823c"},  # of almost equal brightness
        {"paper": "#ded9d2", "ink": "#b8b4ae"},  # faint
        {"size": (150, 125)},  # almost no margin
        {"width": 2},  # thinner than any in MNIST
        {"width": 22},  # thicker
    ],
    ids=["small", "large", "inverted", "colored", "faint", "tight", "thin", "thick"],
)
def test_size_color_and_pen_hardly_matter(changes: dict[str, object]) -> None:
    [wanted] = found(plain("5"))
    [image] = found(plain("5", **changes))
    assert difference(image, wanted) < 18


def test_uneven_light_and_grain() -> None:
    [wanted] = found(plain("2"))
    seen = photographed(plain("2", ink="#707070"), light=170, grain=6, seed=0)
    assert np.asarray(seen)[195, 195].max() < 0x70  # in the shade, paper is darker than ink in full light
    [image] = found(seen)
    assert difference(image, wanted) < 10


def test_strokes_of_one_digit_that_do_not_touch() -> None:
    assert len(found(plain("5", width=3))) == 1
    # The box includes the bar.
    digit = find_digits(to_pixels(plain("5", width=3)))[0]
    assert digit.box[3] - digit.box[1] == pytest.approx(123, abs=3)


def test_several_are_read_row_by_row() -> None:
    sheet = Image.new("RGB", (500, 400), "#ffffff")
    sheet.paste(plain("174", size=(500, 200), height=90), (0, 0))
    sheet.paste(plain("26", size=(500, 200), height=90), (0, 200))
    images = found(sheet)
    assert len(images) == 5
    for image, symbol in zip(images, "17426", strict=True):
        [wanted] = found(plain(symbol))
        assert difference(image, wanted) < 12


def test_dirt_is_ignored() -> None:
    picture = plain("7")
    picture.paste("#000000", (20, 20, 26, 26))
    [wanted] = found(plain("7"))
    [image] = found(picture)
    assert difference(image, wanted) == 0


def blank(_: np.random.Generator) -> np.ndarray:
    return np.full((90, 120, 3), 200)


def grainy(random: np.random.Generator) -> np.ndarray:
    return 200 + random.normal(0, 3, (90, 120, 3))


def shaded(_: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(np.linspace(60, 220, 120)[None, :, None], (90, 120, 3))


def salt(random: np.random.Generator) -> np.ndarray:
    return np.where(random.random((90, 120, 1)) < 0.05, 255, 0) * np.ones(3)


def pixel(_: np.random.Generator) -> np.ndarray:
    return np.zeros((1, 1, 3))


@pytest.mark.parametrize("make", [blank, grainy, shaded, salt, pixel])
def test_a_blank_picture_has_no_digits(make: Callable[[np.random.Generator], np.ndarray]) -> None:
    pixels = make(np.random.default_rng(0)).astype(np.uint8)
    assert find_digits(to_pixels(Image.fromarray(pixels))) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (5, 5)])
def test_any_size_is_a_picture(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        pixels = random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        for digit in find_digits(to_pixels(Image.fromarray(pixels))):
            assert digit.image.shape == (28, 28)


@pytest.mark.parametrize(
    "kind",
    [
        "a sheet on a desk",
        "boxes of a form",
        "ruled paper",
        "minus or dash",
        "decimal point or comma",
        "broken strokes",
    ],
)
def test_what_is_around_digits_is_none(kind: str) -> None:
    pictures = pictures_of(kind, seed=2, count=5)
    counted = sum(len(found(picture)) == len(text) for picture, text in pictures)
    assert counted >= (4 if kind == "broken strokes" else 5)


@pytest.mark.parametrize(("paper", "desk"), [("#f0ede4", "#5a4632"), ("#d8d8d8", "#202428")])
def test_a_sheet_on_a_desk(paper: str, desk: str) -> None:
    sheet = plain("6", paper=paper, width=8)
    [wanted] = found(sheet)
    scene = Image.new("RGB", (500, 400), desk)
    scene.paste(sheet, (150, 90))
    [image] = found(scene)
    assert difference(image, wanted) < 3
    [digit] = find_digits(to_pixels(scene))
    assert 150 < digit.box[0] < digit.box[2] < 150 + sheet.width


@pytest.mark.parametrize("symbol", "01489")
def test_a_bright_digit_is_no_sheet(symbol: str) -> None:
    [wanted] = found(plain(symbol, paper="#000000", ink="#ffffff", width=30))
    [image] = found(plain(symbol, paper="#ffffff", ink="#000000", width=30))
    assert difference(image, wanted) < 3


def test_a_small_digit_is_no_mark() -> None:
    picture = Image.new("RGB", (500, 240), "#ffffff")
    picture.paste(plain("7", width=8), (0, 0))
    picture.paste(plain("3", size=(100, 60), height=40, width=5), (240, 150))
    assert len(found(picture)) == 2


def test_blobs_between_which_gaps_are_closed() -> None:
    for photograph in renderings.others_of("photograph")[2:5:2]:  # closing makes components without ink
        for digit in find_digits(to_pixels(photograph)):
            assert digit.image.any()

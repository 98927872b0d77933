"""Digits that touch, and digits drawn as outlines."""

import functools

import numpy as np
import pytest
from PIL import Image

from digits_jax.apps.reader import Page, load_reader, to_pixels
from digits_jax.apps.reader.normalization import fill_outline
from digits_jax.apps.reader.touching import MAX_DIGITS, RowReader, cut
from digits_jax.studies.drawings import draw
from digits_jax.studies.scene_pictures import pictures_of
from digits_jax.studies.scenes import outcome

shipped_reader = functools.cache(functools.partial(load_reader, None, checkpoint="best"))
row_reader = functools.cache(RowReader)


def read(picture: Image.Image) -> Page:
    return shipped_reader().read(to_pixels(picture))


def ink_of(symbols: str) -> np.ndarray:
    """Returns the ink of black symbols, cropped."""
    picture = draw(symbols, size=(300, 120), paper="#ffffff", ink="#000000", height=80, width=8)
    ink = 1 - np.asarray(picture.convert("L"), np.float32) / 255
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("symbols", ["7", "38", "205", "99"])
def test_rows_are_read_from_left_to_right(symbols: str) -> None:
    [row] = row_reader().read([ink_of(symbols)], 0.5)
    assert row.digits == [*map(int, symbols)]
    assert row.probability > 0.9
    assert list(row.middles) == sorted(row.middles)
    assert all(0 < middle < 1 for middle in row.middles)


def test_rows_of_any_width_are_read_as_each_alone() -> None:
    inks = [ink_of(symbols) for symbols in ["4", "12345", "38"] * 7]
    rows = row_reader().read(inks, 0.5)
    assert [row.digits for row in rows] == 7 * [[4], [1, 2, 3, 4, 5], [3, 8]]
    for ink, row in zip(inks[:3], rows, strict=False):
        [alone] = row_reader().read([ink], 0.5)
        assert alone.digits == row.digits
        assert alone.probability == pytest.approx(row.probability, rel=1e-4)


def test_a_line_has_no_digits() -> None:
    [row] = row_reader().read([np.ones((4, 4 * MAX_DIGITS), np.float32)], 0.5)
    assert (row.digits, row.probability) == ([], 0.0)
    assert row_reader().read([], 0.5) == []


@pytest.mark.parametrize("scale", [1, 3])
def test_a_row_is_cut_between_its_digits(scale: int) -> None:
    ink = np.kron(ink_of("38"), np.ones((scale, scale), np.float32))
    left = scale * ink_of("3").shape[1]
    (_, first), (_, second) = cut(ink, 0.5, np.array([left / 2, (left + ink.shape[1]) / 2]) / ink.shape[1])
    assert first == pytest.approx((0, 0, left, ink.shape[0]), abs=3 * scale)
    assert left < second[0]
    assert second[2] == pytest.approx(ink.shape[1], abs=scale)


def test_touching_digits_are_cut_or_warned_about() -> None:
    pictures = pictures_of("touching digits", seed=3, count=16)
    outcomes = [outcome(read(picture).digits, text) for picture, text in pictures]
    assert outcomes.count("silent") <= 1
    assert outcomes.count("exact") >= 10


def test_parts_have_boxes_in_the_picture_from_left_to_right() -> None:
    pages = ((picture, read(picture)) for picture, _ in pictures_of("touching digits", seed=3, count=8))
    picture, digits = next((picture, page.digits) for picture, page in pages if len(page.digits) == 2)
    (left, *_), (middle, top, right, bottom) = (digit.box for digit in digits)
    assert 0 <= left < middle < right <= picture.width
    assert 0 <= top < bottom <= picture.height


def test_outlined_digits_are_filled() -> None:
    outcomes = [outcome(read(picture).digits, text) for picture, text in pictures_of("outlined", seed=3, count=8)]
    assert outcomes.count("exact") == 8


@pytest.mark.parametrize("digit", ["0", "8"])
@pytest.mark.parametrize("pen", [2, 4])
def test_a_narrow_digit_of_a_thin_pen_is_no_outline(digit: str, pen: int) -> None:
    picture = draw(digit, size=(150, 130), paper="#ffffff", ink="#000000", height=100, width=pen).resize((68, 130))
    assert [reading.digit for reading in read(picture).digits] == [int(digit)]


def test_only_what_is_between_lines_is_filled() -> None:
    ring = np.zeros((30, 30), np.float32)
    for start, stop in ((2, 28), (8, 22)):
        ring[start, start:stop] = ring[stop - 1, start:stop] = ring[start:stop, start] = ring[start:stop, stop - 1] = 1
    filled = fill_outline(ring, 0.5) > 0.5
    assert filled[5, 5]
    assert filled[15, 4]
    assert not filled[15, 15]
    assert not filled[0, 0]
    stroke = np.zeros((30, 30), np.float32)
    stroke[4:26, 14:17] = 1
    np.testing.assert_array_equal(fill_outline(stroke, 0.5), stroke)


@pytest.mark.parametrize("letter", ["H", "M", "V", "n", "y"])
def test_letters_are_not_cut_into_digits(letter: str) -> None:
    [reading] = read(draw(letter, size=(200, 200), paper="#ffffff", ink="#000000", height=120, width=9)).digits
    assert reading.warning == "unlike the digits that the model was trained on"

"""Digits that touch, and digits drawn as outlines."""

import functools

import numpy as np
import pytest
from PIL import Image

from digits_jax.apps.reader import Page, load_reader, to_pixels
from digits_jax.apps.reader.normalization import fill_outline
from digits_jax.apps.reader.touching import Part, find_parts, shortest_chain
from digits_jax.studies.drawings import draw
from digits_jax.studies.scene_pictures import pictures_of
from digits_jax.studies.scenes import outcome

shipped_reader = functools.cache(functools.partial(load_reader, None, checkpoint="best"))


def read(picture: Image.Image) -> Page:
    return shipped_reader().read(to_pixels(picture))


def ink_of(symbols: str) -> np.ndarray:
    """Returns the ink of black symbols, cropped."""
    picture = draw(symbols, size=(300, 120), paper="#ffffff", ink="#000000", height=80, width=8)
    ink = 1 - np.asarray(picture.convert("L"), np.float32) / 255
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def part(start: int, stop: int) -> Part:
    return Part(start, stop, np.zeros((1, 1), np.float32), np.zeros((1, 1), bool), (0, 0, 1, 1))


def test_the_chain_of_least_cost_covers_the_shape() -> None:
    parts = [part(0, 3), part(0, 1), part(1, 3), part(0, 2), part(2, 3), part(1, 2)]
    assert shortest_chain(parts, np.array([5.0, 1.0, 2.0, 0.5, 3.0, 0.5])) == [1, 2]
    assert shortest_chain(parts, np.array([2.5, 1.0, 2.0, 0.5, 3.0, 0.5])) == [0]
    assert shortest_chain(parts, np.array([5.0, 1.0, 2.0, 3.0, 0.1, 0.2])) == [1, 5, 4]
    assert shortest_chain([part(1, 2)], np.array([1.0])) == []
    assert shortest_chain([], np.zeros(0)) == []


@pytest.mark.parametrize("scale", [1, 3])
def test_one_part_is_the_left_digit_and_one_the_right(scale: int) -> None:
    ink = np.kron(ink_of("38"), np.ones((scale, scale), np.float32))
    left = ink_of("3").shape[1]
    parts = find_parts(ink, 0.5)
    last = max(part.stop for part in parts)
    firsts = [part.box for part in parts if part.start == 0]
    seconds = [part.box for part in parts if part.stop == last]
    assert any(box[0] == 0 and box[2] == pytest.approx(scale * left, abs=3 * scale) for box in firsts)
    assert any(box[0] > scale * left and box[2] == pytest.approx(ink.shape[1], abs=scale) for box in seconds)


def test_touching_digits_are_cut_or_warned_about() -> None:
    outcomes = [
        outcome(read(picture).digits, text) for picture, text in pictures_of("touching digits", seed=3, count=8)
    ]
    assert outcomes.count("silent") <= 1
    assert outcomes.count("exact") + outcomes.count("warned") >= 4


def test_parts_have_boxes_in_the_picture_from_left_to_right() -> None:
    pages = ((picture, read(picture)) for picture, _ in pictures_of("touching digits", seed=3, count=8))
    picture, digits = next((picture, page.digits) for picture, page in pages if len(page.digits) == 2)
    (left, *_), (middle, top, right, bottom) = (digit.box for digit in digits)
    assert 0 <= left < middle < right <= picture.width
    assert 0 <= top < bottom <= picture.height


def test_outlined_digits_are_filled() -> None:
    outcomes = [outcome(read(picture).digits, text) for picture, text in pictures_of("outlined", seed=3, count=8)]
    assert outcomes.count("exact") >= 5


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

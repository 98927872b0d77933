"""Numbers, from the boxes of digits and marks."""

import numpy as np
import pytest

from digits_jax.apps.reader import Page, Reading, find_numbers, load_reader, to_pixels
from digits_jax.apps.reader.segmentation import Mark
from digits_jax.studies.scene_pictures import picture_of

_WIDTH, _HEIGHT = 20, 40  # pixels, of a digit


def page(*rows: str, rejected: str = "") -> Page:
    """Places rows of digits and marks below each other; a space is as wide as two digits."""
    digits, marks = [], []
    for row, text in enumerate(rows):
        top = 60 * row
        for column, symbol in enumerate(text):
            left = 30 * column
            if symbol.isdigit():
                box = (left, top, left + _WIDTH, top + _HEIGHT)
                warning = "strange" if symbol in rejected else None
                probabilities = np.where(np.arange(10) == int(symbol), 0.91, 0.01)
                digits.append(Reading(np.zeros((28, 28), np.uint8), box, probabilities, warning))
            elif symbol != " ":
                y = top + (20 if symbol == "-" else 38)
                marks.append(Mark(symbol, (left, y, left + 5, y + 3)))
    return Page(digits, marks)


@pytest.mark.parametrize("rows", [("-3.5",), ("12", "3.4"), ("-1.2  34-5", "6"), ("0.25",)])
def test_digits_and_marks_are_joined_row_by_row(rows: tuple[str, ...]) -> None:
    assert [number.text for number in find_numbers(page(*rows))] == [text for row in rows for text in row.split()]


def test_marks_alone_are_no_number() -> None:
    assert find_numbers(page("1   -")) == find_numbers(page("1"))
    assert find_numbers(Page([], [Mark("-", (0, 0, 5, 2))])) == []


def test_probability_box_and_warning_of_a_number() -> None:
    [number] = find_numbers(page("-12.3"))
    assert number.probability == pytest.approx(0.91**3)
    assert (number.box, number.warning) == ((0, 0, 140, 41), None)
    [number] = find_numbers(page("-12.3", rejected="2"))
    assert (number.text, number.warning) == ("-1?.3", "strange")


def test_reads_numbers_in_pictures() -> None:
    reader = load_reader(None, checkpoint="best")
    for text in ("-3.5", "12-7", "0.25", "-40"):
        for seed in (1, 2):
            assert [n.text for n in find_numbers(reader.read(to_pixels(picture_of(text, seed=seed))))] == [text]

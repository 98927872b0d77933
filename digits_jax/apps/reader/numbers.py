"""Joins the digits and marks of a picture to numbers, such as -3.5."""

from typing import NamedTuple

import numpy as np

from digits_jax.apps.reader.digit_reader import Page, Reading
from digits_jax.apps.reader.segmentation import Box, Mark, rows_of

_SPACE = 0.8  # of the tallest digit's height: numbers are at least this far apart


class Number(NamedTuple):
    """Digits and marks that stand together."""

    text: str  # with a question mark for each rejected digit, and a point for a comma
    box: Box  # in the picture
    probability: float  # of all of its digits, if they are independent
    warning: str | None  # why its first rejected digit is rejected


def find_numbers(page: Page) -> list[Number]:
    """Returns the numbers on a page, row by row and from left to right."""
    boxes = [digit.box for digit in page.digits]
    tallest = max((bottom - top for _, top, _, bottom in boxes), default=0)
    numbers = []
    for row in rows_of(boxes):
        symbols: list[Reading | Mark] = [page.digits[i] for i in row]
        symbols += [mark for mark in page.marks if _nearest(mark, boxes) in row]
        symbols.sort(key=lambda symbol: symbol.box[0])
        rights = np.maximum.accumulate([symbol.box[2] for symbol in symbols])
        starts = [0, *(i for i in range(1, len(symbols)) if symbols[i].box[0] - rights[i - 1] > _SPACE * tallest)]
        parts = [symbols[a:b] for a, b in zip(starts, [*starts[1:], len(symbols)], strict=True)]
        numbers += [_number(part) for part in parts if any(isinstance(symbol, Reading) for symbol in part)]
    return numbers


def _nearest(mark: Mark, boxes: list[Box]) -> int:
    """Returns the index of the box whose middle is nearest to that of a mark."""
    corners = np.array(boxes)
    middles = (corners[:, :2] + corners[:, 2:]) / 2
    middle = np.add(mark.box[:2], mark.box[2:]) / 2
    return int(np.linalg.norm(middles - middle, axis=1).argmin())


def _number(symbols: list[Reading | Mark]) -> Number:
    digits = [symbol for symbol in symbols if isinstance(symbol, Reading)]
    corners = np.array([symbol.box for symbol in symbols])
    left, top = corners[:, :2].min(axis=0).tolist()
    right, bottom = corners[:, 2:].max(axis=0).tolist()
    probability = float(np.prod([digit.probabilities.max() for digit in digits]))
    text = "".join(_text(symbol) for symbol in symbols)
    return Number(text, (left, top, right, bottom), probability, next((d.warning for d in digits if d.warning), None))


def _text(symbol: Reading | Mark) -> str:
    if isinstance(symbol, Mark):
        return symbol.symbol
    return str(symbol.digit) if symbol.warning is None else "?"

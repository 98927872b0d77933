"""Bounds of fields, of configs and of JSON files, as predicates and in the words of error messages."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """The values that a field accepts, as a predicate and in words."""

    accepts: Callable[[Any], bool]
    expected: str
    convert: Callable[[Any], Any] = lambda value: value  # takes an accepted value; equal ones get one type


def _is_number(value: Any, types: Any = int | float) -> bool:
    return isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value)


def integer(low: int, high: int | None = None) -> Bounds:
    """Accepts integers from `low` to `high`, inclusive."""
    expected = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    return Bounds(lambda x: _is_number(x, int) and low <= x and (high is None or x <= high), expected)


def number(low: float, high: float = math.inf, *, open_end: bool = False) -> Bounds:
    """Accepts finite numbers from `low` to `high`, which is excluded with `open_end`."""
    below = (lambda x: x < high) if open_end else (lambda x: x <= high)
    expected = f"a number in [{low}, {high}{')]'[not open_end]}"
    return Bounds(lambda x: _is_number(x) and low <= x and below(x), expected, float)


def one_of(names: Any) -> Bounds:
    """Accepts the keys of a table."""
    return Bounds(lambda x: x in names, "one of " + ", ".join(names))


def tuple_of(item: Bounds, expected: str) -> Bounds:
    """Accepts non-empty tuples of items."""
    return Bounds(
        lambda x: isinstance(x, tuple) and x != () and all(map(item.accepts, x)),
        expected,
        lambda x: tuple(map(item.convert, x)),
    )


def names_of(names: Any) -> Bounds:
    """Accepts tuples, also empty ones, of different keys of a table."""
    return Bounds(
        lambda x: isinstance(x, tuple) and all(x.count(name) == 1 and name in names for name in x),
        f"none or several of {', '.join(names) or 'nothing: none is registered'}",
    )


def optional(bounds: Bounds) -> Bounds:
    """Accepts None as well."""
    return Bounds(
        lambda x: x is None or bounds.accepts(x),
        bounds.expected,
        lambda x: None if x is None else bounds.convert(x),
    )


def none_or(names: Any) -> Bounds:
    """Accepts an empty tuple, and one with a number for each of the names."""
    expected = f"none, or {len(names)} numbers: {', '.join(names)}"
    return Bounds(
        lambda x: isinstance(x, tuple) and len(x) in (0, len(names)) and all(map(_is_number, x)),
        expected,
        lambda x: tuple(map(float, x)),
    )


def list_of(item: Bounds, *, shortest: int = 0, longest: int | None = None) -> Bounds:
    """Accepts lists of items."""
    size = f" {shortest} to {longest or 'any number of'}" if shortest or longest else ""

    def accepts(x: Any) -> bool:
        return isinstance(x, list) and shortest <= len(x) <= (longest or len(x)) and all(map(item.accepts, x))

    return Bounds(accepts, f"a list of{size} items, each {item.expected}")


# A name becomes a directory or file: no separators, no parent directories.
NAME = Bounds(
    lambda x: isinstance(x, str) and re.fullmatch(r"[\w-][\w.+-]{0,99}", x) is not None, "a name, such as vgg"
)
TEXT = Bounds(lambda x: isinstance(x, str) and len(x) < 10_000, "text")
OBJECT = Bounds(lambda x: isinstance(x, dict), "fields and values")
SHA256 = Bounds(lambda x: isinstance(x, str) and re.fullmatch("[0-9a-f]{64}", x) is not None, "64 hexadecimal digits")
FLAG = Bounds(lambda x: isinstance(x, bool), "True or False")
PATH = optional(Bounds(lambda x: isinstance(x, str), "a path"))
PATTERNS = Bounds(
    lambda x: isinstance(x, tuple) and all(isinstance(item, str) for item in x), "patterns, such as ('Conv_*',)"
)
# What a config field names becomes part of the run's identity by the hash of its weights, see `config.fields`.
WEIGHTS = Bounds(lambda x: isinstance(x, str), "the directory of a run, such as runs/vgg/0123abcd")
PROBABILITY = number(0, 1, open_end=True)
FINITE = Bounds(_is_number, "a finite number", float)
POSITIVE = Bounds(lambda x: _is_number(x) and x > 0, "a number > 0", float)

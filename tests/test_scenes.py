"""Pictures of digits as people take them, and how their reading is counted."""

import numpy as np
import pytest

from digits_jax.apps.reader import Reading
from digits_jax.studies import scenes


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_pictures_are_the_same_at_each_call(kind: str) -> None:
    [(picture, text)], [(again, _)] = (scenes.pictures_of(kind, count=1) for _ in range(2))
    assert picture.tobytes() == again.tobytes()
    assert text.isdigit()
    [(other, _)] = scenes.pictures_of(kind, seed=1, count=1)
    assert picture.tobytes() != other.tobytes()


def readings(text: str) -> list[Reading]:
    """Returns a reading for each digit; one before a question mark is rejected."""
    found = []
    for digit, following in zip(text, f"{text[1:]} ", strict=False):
        if digit != "?":
            warning = "strange" if following == "?" else None
            found.append(Reading(np.zeros((28, 28), np.uint8), (0, 0, 1, 1), np.eye(10)[int(digit)], warning))
    return found


@pytest.mark.parametrize(
    ("read", "outcome"),
    [("12", "exact"), ("12?", "warned"), ("123?", "warned"), ("13", "silent"), ("13?", "wrong"), ("", "wrong")],
)
def test_outcomes(read: str, outcome: str) -> None:
    assert scenes.outcome(readings(read), "12") == outcome


def test_the_table_has_shares() -> None:
    counts = {"pictures": 4, "exact": 3, "warned": 0, "wrong": 0, "silent": 1}
    kinds = {"a": counts | {"confident": 2, "confident and exact": 1}}
    text = scenes.table({"model": "a model", "kinds": kinds})
    assert "| a | 4 | 75.0% | 0.0% | 0.0% | 25.0% |" in text
    assert "Of the 2 pictures whose digits are all accepted and together have a probability above 99%, 50.0% are" in text
    assert text.endswith("Model: a model.")

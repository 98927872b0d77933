"""Pictures of digits as people take them, and how their reading is counted."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from digits_jax.apps.reader import Reading, load_reader
from digits_jax.studies import scenes
from digits_jax.studies.scene_pictures import KINDS, picture_of, pictures_of


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_the_same_at_each_call(kind: str) -> None:
    [(picture, text)], [(again, _)] = (pictures_of(kind, count=1) for _ in range(2))
    assert picture.tobytes() == again.tobytes()
    assert text.isdigit()
    [(other, _)] = pictures_of(kind, seed=1, count=1)
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


def test_the_tables_have_shares() -> None:
    counts = {"pictures": 4, "exact": 3, "warned": 0, "wrong": 0, "silent": 1, "tutorials": 2, "tesseract": 0}
    kinds = {"a": counts | {"confident": 2, "confident and exact": 1}}
    tables = scenes.tables({"model": "a model", "tesseract": "5.3", "kinds": kinds})
    assert "| a | 75.0% | 0.0% | 0.0% | 25.0% |" in tables["scenes"]
    assert "accepted and together have a probability above 99%, 50.0% are read exactly." in tables["scenes"]
    assert "| a | 75.0% | 50.0% | 0.0% |" in tables["scenes_others"]


def test_the_way_of_tutorials_reads_clean_pictures() -> None:
    reader = load_reader(None, checkpoint="best")
    assert [scenes.read_as_tutorials(reader, picture_of("31", seed=seed)) for seed in range(3)] == ["31"] * 3
    assert scenes.read_as_tutorials(reader, Image.new("RGB", (100, 100), "white")) == ""


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_tesseract_reads_printed_digits() -> None:
    picture = Image.new("RGB", (300, 120), "white")
    ImageDraw.Draw(picture).text((40, 20), "1874", "black", ImageFont.load_default(72))
    assert scenes.read_with_tesseract(picture) == "1874"

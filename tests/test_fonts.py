"""What a trained model is tried on, and the page of it; the fonts need not be installed."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from digits_jax.apps.reader import Reading, find_digits, to_pixels
from digits_jax.errors import UserError
from digits_jax.studies import fonts
from digits_jax.studies.renderings import FONTS, OTHERS, Font, draw_glyph, font_file

DEJAVU = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def test_missing_fonts_name_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="found with fc-match, which is not there: apt-get install fontconfig"):
        font_file(Font("Breip", "fonts-breip"))
    program = tmp_path / "fc-match"
    program.write_text("#!/bin/sh\nprintf 'DejaVu Sans,DejaVu\\n/fonts/it.ttf'\n")  # what is nearest
    program.chmod(0o755)
    with pytest.raises(UserError, match="the font 'Breip' is not installed: apt-get install fonts-breip"):
        font_file(Font("Breip", "fonts-breip"))
    assert font_file(Font("DejaVu Sans", "fonts-dejavu-core")) == Path("/fonts/it.ttf")


def test_glyphs_are_whole_and_always_the_same() -> None:
    sizes, dark = set(), []
    for seed in range(20):
        picture = draw_glyph("8", DEJAVU, np.random.default_rng(seed))
        assert picture.tobytes() == draw_glyph("8", DEJAVU, np.random.default_rng(seed)).tobytes()
        [digit] = find_digits(to_pixels(picture))
        left, top, right, bottom = digit.box
        assert left > 0 < top
        assert right < picture.width
        assert bottom < picture.height
        sizes.add(picture.size)
        grey = np.asarray(picture.convert("L"), int)
        dark.append(grey[top:bottom, left:right].mean() < grey[0, 0])
    assert len(sizes) == 20
    assert 3 < sum(dark) < 17


def test_the_page() -> None:
    def font_counts(right: int) -> dict[str, int]:
        return {"pictures": 200, "right": right, "warned": 3, "right_and_not_warned": 9,
                "right_without_preprocessing": 20}  # fmt: skip

    result = {
        "model": "a model",
        "fonts": {font.family: font_counts(180 + number) for number, font in enumerate(FONTS)},
        "no_digits": {kind: {"pictures": 200, "warned": 190} for kind in OTHERS},
        "test_images": {"images": 10_000, "right": 9958, "warned": 150},
        "test_images_as_pictures": {"images": 1000, "right": 990, "warned": 20},
    }
    table = fonts.fonts_table(result)
    assert "| DejaVu Sans | plain | 90.0% | 10.0% | 1.5% |" in table
    assert "| Breip | handwriting | 92.5% | 10.0% | 1.5% |" in table
    assert "| **all** |  | 92.8% | 10.0% | 1.5% |" in table
    assert "| blank | 200 | 95.0% |" in fonts.others_table(result)
    assert "Of the 10,000 test images 1.50% are warned about (99.58% are right)" in fonts.images_sentence(result)


def test_a_picture_is_warned_about_where_nothing_in_it_is_a_digit_for_sure() -> None:
    sure = Reading(np.zeros((28, 28), np.uint8), (0, 0, 1, 1), np.full(10, 0.1, np.float32), None)
    doubtful = sure._replace(warning="like no digit")
    assert fonts.is_warned([])
    assert fonts.is_warned([doubtful])
    assert not fonts.is_warned([doubtful, sure])

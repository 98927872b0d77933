"""The pictures that a trained model is tested on, and their page; the fonts need not be installed."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from digits_jax.apps.reader import Page, Reading, find_digits, to_pixels
from digits_jax.errors import UserError
from digits_jax.studies import fonts, renderings
from digits_jax.studies.renderings import FONTS, OTHERS, Font, draw_glyph, font_file

DOCS = Path(__file__).parents[1] / "docs"
DEJAVU = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def test_missing_fonts_name_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="found with fc-match, which is not installed: apt-get install fontconfig"):
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
        gray = np.asarray(picture.convert("L"), int)
        dark.append(gray[top:bottom, left:right].mean() < gray[0, 0])
    assert len(sizes) == 20
    assert 3 < sum(dark) < 17


def test_the_pictures_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderings, "font_file", lambda font: DEJAVU)
    monkeypatch.setattr(renderings, "RENDERINGS", 2)
    monkeypatch.setattr(renderings, "NUM_OTHERS", 2)
    digits, letters = renderings.digits_of(FONTS[0]), renderings.letters_of(FONTS[0])
    assert [digit for _, digit in digits] == list("00112233445566778899")
    assert [picture.size for picture, _ in digits[:2]] == [(345, 460), (88, 176)]
    assert [picture.size for picture, _ in letters[:2]] == [(111, 420), (441, 429)]
    sizes = {kind: [picture.size for picture in renderings.others_of(kind)] for kind in OTHERS}
    assert sizes == {
        "blank": [(152, 487), (163, 461)],
        "noise": [(196, 496), (81, 66)],
        "photograph": [(149, 94), (569, 409)],
    }


def test_the_page() -> None:
    def font_counts(correct: int) -> dict[str, int]:
        return {"images": 200, "correct": correct, "rejected": 3, "correct_without_preprocessing": 20}

    result = {
        "model": "a model",
        "fonts": {font.family: font_counts(180 + number) for number, font in enumerate(FONTS)},
        "out_of_distribution": {kind: {"images": 200, "rejected": 190} for kind in (*OTHERS, "letter")},
        "test_images": {"images": 10_000, "correct": 9958, "rejected": 150},
        "test_images_as_pictures": {"images": 1000, "correct": 990, "rejected": 20},
    }
    table = fonts.fonts_table(result)
    assert "| DejaVu Sans | plain | 90.0% | 10.0% | 1.5% |" in table
    assert "| Breip | handwriting | 92.5% | 10.0% | 1.5% |" in table
    assert "| **all** |  | 92.8% | 10.0% | 1.5% |" in table
    assert "| blank | 200 | 95.0% |" in fonts.others_table(result)
    assert "Of the 10,000 test images 99.58% are correctly classified and 1.50% rejected" in fonts.images_sentence(
        result
    )


def test_the_committed_page() -> None:
    sections = fonts.sections(DOCS)
    assert "| Breip | handwriting | 100.0% | 9.5% | 10.0% |" in sections["fonts"]
    assert (
        "| letter shaped like a digit | 192 | 15.6% |\n| **letters** | 624 | 65.7% |\n| **all** | 1,224 | 81.5% |"
        in sections["out_of_distribution"]
    )
    assert "99.10% of the first 1,000" in sections["test_images"]


SURE = Reading(np.zeros((28, 28), np.uint8), (0, 0, 1, 1), np.full(10, 0.1, np.float32), None)
DOUBTFUL = SURE._replace(warning="like no digit")


def test_a_picture_is_rejected_if_no_prediction_is_free_of_warnings() -> None:
    assert fonts.is_rejected([])
    assert fonts.is_rejected([DOUBTFUL])
    assert not fonts.is_rejected([DOUBTFUL, SURE])


def test_a_picture_is_correct_if_exactly_its_digit_is_read() -> None:
    class Reader:
        found = iter([[SURE], [DOUBTFUL], [SURE, SURE], []])

        def read(self, pixels: np.ndarray) -> Page:
            return Page(next(self.found), [])

    picture = Image.new("L", (1, 1))
    counts = fonts.score(Reader(), [picture] * 4, [0, 0, 0, 0])  # type: ignore[arg-type]
    assert counts == {"images": 4, "correct": 2, "rejected": 2}

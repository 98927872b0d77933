"""A trained model on digits in fonts, and on what is no digit: `python -m digits_jax.studies.fonts --workdir=W`

Writes `docs/predict.json`, and its tables into `docs/predict.md`; without a workdir only the tables. What is drawn is
in `renderings.py`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from digits_jax import cli
from digits_jax.apps.command_flags import CHECKPOINT, WORKDIR
from digits_jax.apps.reader import DigitReader, load_reader, to_pixels
from digits_jax.data import datasets
from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.storage.disk import replace_text
from digits_jax.studies.docs import DOCS, replace_section
from digits_jax.studies.renderings import DIGIT_SHAPED, FONTS, HANDWRITING, OTHERS, digits_of, letters_of, others_of

_AS_PICTURES = 1000  # test images that are also read as pictures, where their place and size are to be found again


def read_digits(reader: DigitReader, pictures: Iterable[tuple[Image.Image, int]]) -> dict[str, int]:
    """Counts: of pictures, of those read as the digit that they show and as nothing else, of those with a warning, and
    of those right where a picture is only made grey and 28x28 pixels small."""
    pictures = list(pictures)
    readings = [reader.read(to_pixels(picture)) for picture, _ in pictures]
    small = np.stack([np.asarray(picture.convert("L").resize((28, 28))) for picture, _ in pictures])
    digits = [digit for _, digit in pictures]
    pairs = list(zip(readings, digits, strict=True))
    return {
        "pictures": len(pictures),
        "right": sum([reading.digit for reading in found] == [digit] for found, digit in pairs),
        "warned": sum(is_warned(found) for found in readings),
        "right_and_not_warned": sum([r.digit for r in found] == [d] and not is_warned(found) for found, d in pairs),
        "right_without_preprocessing": int((reader.model.predict(small).argmax(axis=1) == digits).sum()),
    }


def is_warned(readings: list[Any]) -> bool:
    """Whether nothing in a picture is called a digit without a warning."""
    return all(reading.warning for reading in readings)


def measure(reader: DigitReader) -> dict[str, Any]:
    """All figures of the page."""
    letters = [(is_warned(reader.read(to_pixels(p))), letter) for font in FONTS for p, letter in letters_of(font)]
    others = {kind: [is_warned(reader.read(to_pixels(p))) for p in others_of(kind)] for kind in OTHERS}
    others["letter"] = [warned for warned, letter in letters if letter not in DIGIT_SHAPED]
    others["letter shaped like a digit"] = [warned for warned, letter in letters if letter in DIGIT_SHAPED]
    images, labels = datasets.load(reader.model.config.dataset).split("test")
    images = images[..., 0]
    probabilities, unfamiliar = reader.predict(images)
    as_pictures = [reader.read(to_pixels(Image.fromarray(image))) for image in images[:_AS_PICTURES]]
    return {
        "model": reader.description,
        "config_hash": reader.model.run["config_hash"],
        "fonts": {font.family: read_digits(reader, digits_of(font)) for font in FONTS},
        "no_digits": {kind: {"pictures": len(warned), "warned": sum(warned)} for kind, warned in others.items()},
        "test_images": {
            "images": len(images),
            "right": int((probabilities.argmax(axis=1) == labels).sum()),
            "warned": int(unfamiliar.sum()),
        },
        "test_images_as_pictures": {
            "images": len(as_pictures),
            "right": sum([r.digit for r in f] == [d] for f, d in zip(as_pictures, labels, strict=False)),
            "warned": sum(map(is_warned, as_pictures)),
        },
    }


def fonts_table(result: dict[str, Any]) -> str:
    """A line for each font, and one for all."""
    counts = {font.family: result["fonts"][font.family] for font in FONTS}
    counts["**all**"] = {key: sum(row[key] for row in counts.values()) for key in next(iter(counts.values()))}
    columns = ("right", "right_without_preprocessing", "warned")
    rows = (
        (
            name,
            "" if name == "**all**" else "handwriting" if name in {f.family for f in HANDWRITING} else "plain",
            *(f"{count[key] / count['pictures']:.1%}" for key in columns),
        )
        for name, count in counts.items()
    )
    return markdown_table(("font", "", "right", "without preprocessing", "warned about"), rows, text_columns=2)


def others_table(result: dict[str, Any]) -> str:
    """A line for each kind of what is no digit, and those that are digits."""
    rows = [(kind, f"{count['pictures']:,}", f"{count['warned'] / count['pictures']:.1%}")
            for kind, count in result["no_digits"].items()]  # fmt: skip
    return markdown_table(("what is drawn", "pictures", "warned about"), rows)


def images_sentence(result: dict[str, Any]) -> str:
    """What becomes of MNIST's own test images."""
    raw, read = result["test_images"], result["test_images_as_pictures"]
    return (
        f"Of the {raw['images']:,} test images {raw['warned'] / raw['images']:.2%} are warned about "
        f"({raw['right'] / raw['images']:.2%} are right). Given as pictures, so that their digit is found, cropped, "
        f"scaled and centred anew, {read['right'] / read['images']:.2%} of the first {read['images']:,} are right, and "
        f"{read['warned'] / read['images']:.2%} are warned about. The model: {result['model']}."
    )


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    if WORKDIR.value is not None:
        result = measure(load_reader(WORKDIR.value, checkpoint=CHECKPOINT.value))
        replace_text(docs / "predict.json", json.dumps(result, indent=1) + "\n")
    try:
        result = json.loads((docs / "predict.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{docs / 'predict.json'} cannot be read ({error}): give --workdir to measure anew") from None
    replace_section(docs / "predict.md", "fonts", fonts_table(result))
    replace_section(docs / "predict.md", "no_digits", others_table(result))
    replace_section(docs / "predict.md", "test_images", images_sentence(result))


if __name__ == "__main__":
    cli.run(main)

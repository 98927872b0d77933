"""Reads digits in fonts and out-of-distribution input: `python -m digits_jax.studies.fonts --measure`

Measures the shipped network, or that of `--workdir`, and writes `docs/predict.json`, from which it rewrites
`docs/predict.md`; without `--measure` only that.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from digits_jax import cli, data
from digits_jax.apps.command_flags import CHECKPOINT, chosen_workdir
from digits_jax.apps.reader.digit_reader import DigitReader, Reading, load_reader
from digits_jax.apps.reader.pictures import to_pixels
from digits_jax.pages import markdown_table
from digits_jax.storage import replace_text
from digits_jax.studies.docs import DOCS, MEASURE, read_json, replace_sections
from digits_jax.studies.renderings import DIGIT_SHAPED, FONTS, HANDWRITING, OTHERS, digits_of, letters_of, others_of


def score(reader: DigitReader, pictures: Iterable[Image.Image], digits: Iterable[int] | None = None) -> dict[str, int]:
    """Reads pictures; counts them, those rejected and, with `digits`, those read as exactly their one digit."""
    readings = [reader.read(to_pixels(picture)).digits for picture in pictures]
    counts = {"images": len(readings), "rejected": sum(map(is_rejected, readings))}
    if digits is not None:
        pairs = zip(readings, digits, strict=True)
        counts["correct"] = sum([reading.digit for reading in found] == [digit] for found, digit in pairs)
    return counts


def is_rejected(readings: Sequence[Reading]) -> bool:
    """Returns whether a picture has no prediction without a warning."""
    return all(reading.warning for reading in readings)


def measure(reader: DigitReader) -> dict[str, Any]:
    """Measures everything on the page, as `docs/predict.json` has it."""
    fonts = {}
    for font in FONTS:
        pictures, digits = zip(*digits_of(font), strict=True)
        labels = np.array(digits, int)
        small = np.stack([np.asarray(picture.convert("L").resize((28, 28))) for picture in pictures])
        correct = int((reader.model.predict(small).argmax(axis=1) == labels).sum())
        fonts[font.family] = {**score(reader, pictures, labels), "correct_without_preprocessing": correct}
    others = {kind: others_of(kind) for kind in OTHERS}
    for picture, letter in (pair for font in FONTS for pair in letters_of(font)):
        others.setdefault("letter shaped like a digit" if letter in DIGIT_SHAPED else "letter", []).append(picture)
    images, labels = data.load(reader.model.config.dataset.name).split("test")
    images = images[..., 0]
    probabilities, strange = reader.predict(images)
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    cut = slice(1000)  # test images that are also read as pictures
    return {
        "model": reader.description,
        "config_hash": reader.model.run["config_hash"],
        "fonts": fonts,
        "out_of_distribution": {kind: score(reader, pictures) for kind, pictures in others.items()},
        "test_images": {"images": len(images), "rejected": int(strange.sum()), "correct": correct},
        "test_images_as_pictures": score(reader, map(Image.fromarray, images[cut]), labels[cut]),
    }


def fonts_table(result: dict[str, Any]) -> str:
    """Returns a table with a row for each font, and one for all of them."""
    counts = {font.family: result["fonts"][font.family] for font in FONTS}
    styles = {font.family: "handwriting" if font in HANDWRITING else "plain" for font in FONTS}
    counts["**all**"] = {key: sum(row[key] for row in counts.values()) for key in next(iter(counts.values()))}
    rows = []
    for name, count in counts.items():
        shares = (count[key] / count["images"] for key in ("correct", "correct_without_preprocessing", "rejected"))
        rows.append((name, styles.get(name, ""), *(f"{share:.1%}" for share in shares)))
    return markdown_table(("font", "", "correct", "without preprocessing", "rejected"), rows, text_columns=2)


def others_table(result: dict[str, Any]) -> str:
    """Returns a table with a row for each kind of out-of-distribution input, one for letters and one for all."""
    kinds = {kind: [kind] for kind in result["out_of_distribution"]}
    kinds |= {"**letters**": [kind for kind in kinds if kind.startswith("letter")], "**all**": [*kinds]}
    rows = []
    for name, parts in kinds.items():
        images, rejected = (
            sum(result["out_of_distribution"][part][key] for part in parts) for key in ("images", "rejected")
        )
        rows.append((name, f"{images:,}", f"{rejected / images:.1%}"))
    return markdown_table(("input", "pictures", "rejected"), rows)


def images_sentence(result: dict[str, Any]) -> str:
    """Returns the results on MNIST's own test images, in words."""
    raw, read = result["test_images"], result["test_images_as_pictures"]
    return (
        f"Of the {raw['images']:,} test images {raw['correct'] / raw['images']:.2%} are correctly classified and "
        f"{raw['rejected'] / raw['images']:.2%} rejected. Read as pictures, in which the digit is located, cropped, "
        f"scaled and centered again, {read['correct'] / read['images']:.2%} of the first {read['images']:,} are "
        f"correctly classified and {read['rejected'] / read['images']:.2%} rejected. Model: {result['model']}."
    )


def sections(docs: Path) -> dict[str, str]:
    """Returns the generated sections of `predict.md` by name, from `predict.json` in `docs`."""
    result = read_json(docs / "predict.json", ": give --measure")
    tables = {"fonts": fonts_table(result), "out_of_distribution": others_table(result)}
    return {**tables, "test_images": images_sentence(result)}


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    if MEASURE.value:
        result = measure(load_reader(chosen_workdir(), checkpoint=CHECKPOINT.value))
        replace_text(docs / "predict.json", json.dumps(result, indent=1) + "\n")
    replace_sections(docs / "predict.md", sections(docs))


if __name__ == "__main__":
    cli.run(main)

"""Reads pictures of digits as people take them: `python -m digits_jax.studies.scenes --measure`

Reads the pictures of `scene_pictures.KINDS` with the shipped network and in other ways. Writes `docs/scenes.json`, from
which it rewrites the tables in `docs/predict.md`; without `--measure` only that.
"""

import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from digits_jax import cli
from digits_jax.apps.reader.digit_reader import DigitReader, Reading, load_reader
from digits_jax.apps.reader.paper import otsu
from digits_jax.apps.reader.pictures import to_pixels
from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.storage import replace_text
from digits_jax.studies.docs import DOCS, MEASURE, read_json, replace_sections
from digits_jax.studies.scene_pictures import KINDS, NUM_PICTURES, pictures_of

_CONFIDENT = 0.99  # probability of a picture's digits together


def outcome(readings: Sequence[Reading], text: str) -> str:
    """Returns "exact", "warned" (its digits, but not all of them accepted, or with others), "wrong" or "silent".

    A picture that is read wrongly without any warning is silently wrong.
    """
    accepted = "".join(str(reading.digit) for reading in readings if reading.warning is None)
    if any(reading.warning for reading in readings) or not readings:
        read = "".join(str(reading.digit) for reading in readings)
        return "warned" if text in (accepted, read) else "wrong"
    return "exact" if accepted == text else "silent"


def read_as_tutorials(reader: DigitReader, picture: Image.Image) -> str:
    """Reads a picture as tutorials do, with the same network: `findContours` on Otsu's threshold, each box resized.

    Of the two sides of the threshold the smaller is ink. Boxes are read from left to right, padded to squares with a
    border of a fifth. Those of less than a hundredth of the picture's area are left out.
    """
    gray = np.asarray(picture.convert("L"), np.float32) / 255
    mask = gray <= otsu(gray)[0]
    mask = mask if mask.mean() < 0.5 else ~mask
    boxes = [(y, x) for y, x in ndimage.find_objects(ndimage.label(mask, np.ones((3, 3)))[0])]
    boxes = [(y, x) for y, x in boxes if (y.stop - y.start) * (x.stop - x.start) > 0.01 * mask.size]
    images = []
    for y, x in sorted(boxes, key=lambda box: box[1].start):
        side = max(y.stop - y.start, x.stop - x.start)
        square = Image.new("L", (round(1.4 * side),) * 2)
        digit = Image.fromarray(np.where(mask[y, x], 255, 0).astype(np.uint8))
        square.paste(digit, ((square.width - digit.width) // 2, (square.height - digit.height) // 2))
        images.append(np.asarray(square.resize((28, 28), Image.Resampling.BOX)))
    if not images:
        return ""
    return "".join(map(str, reader.model.predict(np.stack(images)).argmax(axis=1)))


def read_with_tesseract(picture: Image.Image) -> str:
    """Reads a picture as a line of digits with the program `tesseract`."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    command = ["tesseract", "-", "-", "--psm", "7", "-c", "tessedit_char_whitelist=0123456789"]
    done = subprocess.run(command, input=file.getvalue(), capture_output=True, timeout=60, check=True)
    return "".join(done.stdout.decode().split())


def measure(reader: DigitReader, *, seed: int = 0, count: int = NUM_PICTURES) -> dict[str, Any]:
    """Reads the pictures of all kinds; returns how many have each outcome, and how many others read exactly."""
    if shutil.which("tesseract") is None:
        raise UserError("tesseract is not installed: expected version 5 (apt-get install tesseract-ocr)")
    kinds: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        names = ("exact", "warned", "wrong", "silent", "confident", "confident and exact", "tutorials", "tesseract")
        counts = kinds[kind] = {"pictures": count} | dict.fromkeys(names, 0)
        for picture, text in pictures_of(kind, seed=seed, count=count):
            readings = reader.read(to_pixels(picture)).digits
            result = outcome(readings, text)
            counts[result] += 1
            if result in ("exact", "silent") and np.prod([r.probabilities.max() for r in readings]) > _CONFIDENT:
                counts["confident"] += 1
                counts["confident and exact"] += result == "exact"
            counts["tutorials"] += read_as_tutorials(reader, picture) == text
            counts["tesseract"] += read_with_tesseract(picture) == text
    version = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return {"model": reader.description, "tesseract": version.split()[1], "kinds": kinds}


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Returns the tables of outcomes and of other ways of reading, with a row for each kind and one for all."""
    kinds = dict(result["kinds"])
    total = kinds["**all**"] = {
        key: sum(counts[key] for counts in kinds.values()) for key in next(iter(kinds.values()))
    }

    def rows(names: Sequence[str]) -> list[tuple[str, ...]]:
        return [
            (kind, *(f"{counts[name] / counts['pictures']:.1%}" for name in names)) for kind, counts in kinds.items()
        ]

    outcomes = markdown_table(
        ("pictures of", "read exactly", "digits found, warned", "wrong, warned", "silently wrong"),
        rows(("exact", "warned", "wrong", "silent")),
    )
    others = markdown_table(
        ("read exactly", "this reader", "as in tutorials, same network", f"tesseract {result['tesseract']}"),
        rows(("exact", "tutorials", "tesseract")),
    )
    confident = (
        f"Of the {total['confident']:,} pictures whose digits are all accepted and together have a probability above "
        f"{_CONFIDENT:.0%}, {total['confident and exact'] / total['confident']:.1%} are read exactly."
    )
    return {"scenes": f"{outcomes}\n{confident} Model: {result['model']}.", "scenes_others": others}


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    if MEASURE.value:
        measured = measure(load_reader(None, checkpoint="best"))
        replace_text(docs / "scenes.json", json.dumps(measured, indent=1) + "\n")
    result = read_json(docs / "scenes.json", ": give --measure to read the pictures")
    replace_sections(docs / "predict.md", tables(result))


if __name__ == "__main__":
    cli.run(main)

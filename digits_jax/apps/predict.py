"""Reads digits in pictures: `python -m digits_jax.apps.predict photo.jpg scans/`

Prints the top three classes of each digit, or rejects it with a question mark and the reason. Takes files, directories,
and - for standard input. A file that cannot be read is reported on standard error, and the exit code is then 1.
"""

import json
import sys
from pathlib import Path

from absl import flags

from digits_jax import cli
from digits_jax.apps import reader, require_extra
from digits_jax.apps.command_flags import CHECKPOINT, DATA_DIR, chosen_workdir
from digits_jax.errors import ConfigError, UserError

JSON = flags.DEFINE_bool("json", False, "print a line of JSON per picture (JSON Lines), as it is read")
NUMBERS = flags.DEFINE_bool("numbers", False, "read numbers, such as -3.5, instead of single digits")
SHOW = cli.DEFINE_path("show", None, "PNG file to write, with the pictures and the model's inputs")

_NO_DIGIT = "no digit found"


def as_json(name: str, page: "reader.Page", *, numbers: bool) -> str:
    """Returns what a picture shows as a line of JSON."""
    digits = []
    for reading in page.digits:
        top = [{"digit": digit, "probability": probability} for digit, probability in reading.top(3)]
        digits.append({"digit": reading.digit, "top": top, "warning": reading.warning, "box": reading.box})
    found = {"numbers": [number._asdict() for number in reader.find_numbers(page)]} if numbers else {}
    marks = [mark._asdict() for mark in page.marks]
    warning = None if digits else _NO_DIGIT
    return json.dumps({"image": name, "digits": digits, "marks": marks, **found, "warning": warning})


def as_text(name: str, page: "reader.Page", *, numbers: bool) -> str:
    """Returns what a picture shows as text, one line per digit or number."""
    if numbers:
        found = [([(number.text, number.probability)], number.warning) for number in reader.find_numbers(page)]
    else:
        found = [([(str(digit), p) for digit, p in reading.top(3)], reading.warning) for reading in page.digits]
    lines = []
    for likely, warning in found:
        top = "   ".join(f"{text} {probability:7.2%}" for text, probability in likely)
        lines.append(f"{name}: {top}" if warning is None else f"{name}: ? {warning} ({top})")
    return "\n".join(lines) or f"{name}: ? {_NO_DIGIT}"


def main(argv: list[str]) -> int:
    paths = argv[1:]
    if not paths:
        raise ConfigError("no picture is given: expected files, directories, or - for standard input")
    if SHOW.value is not None and not SHOW.value.endswith(".png"):
        raise ConfigError(f"--show is {SHOW.value!r}: expected a PNG file, such as seen.png")
    require_extra("apps", ("scipy",), needed_by="reading pictures")
    digit_reader = reader.load_reader(chosen_workdir(), checkpoint=CHECKPOINT.value, data_dir=DATA_DIR.value)
    sheet, num_errors = reader.ContactSheet(SHOW.value) if SHOW.value is not None else None, 0
    for name in (file for path in paths for file in reader.list_pictures(path)):
        try:
            picture = reader.read_picture(name)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            if JSON.value:
                print(json.dumps({"image": name, "error": str(error)}), flush=True)
            num_errors += 1
            continue
        if picture.frames > 1:
            print(f"note: {name} has {picture.frames} frames; only the first is read", file=sys.stderr)
        page = digit_reader.read(picture.pixels)
        as_lines = as_json if JSON.value else as_text
        print(as_lines(name, page, numbers=NUMBERS.value), flush=True)
        if sheet:
            sheet.add(picture.pixels, page.digits, Path(name).name)
    if sheet:
        sheet.save()
    return 1 if num_errors else 0


if __name__ == "__main__":
    cli.run(main, positional=True)

"""Reads the digits in pictures: `python -m digits_jax.apps.predict --workdir=runs/bn_dropout/0123abcd photo.jpg`

Takes picture files, folders of them, and - for standard input. Each digit is answered with the three most probable
classes, and with a question mark and the reason where it may be no digit. A file that cannot be read is named on
standard error, the others are answered all the same, and the exit code is 1.
"""

import gc
import json
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from digits_jax import cli
from digits_jax.apps.chosen_model import CHECKPOINT
from digits_jax.apps.reader.pictures import files_of, read_picture
from digits_jax.errors import ConfigError, UserError

if TYPE_CHECKING:
    from digits_jax.apps.reader.digit_reader import DigitReader, Reading

JSON = flags.DEFINE_bool("json", False, "answer with one JSON document")
SHOW = flags.DEFINE_string("show", None, "PNG to save, of what the network saw")

NO_DIGIT = "no digit to be seen"


def as_json(name: str, readings: "list[Reading]") -> dict[str, Any]:
    """What was read in a picture, as the command prints it."""
    digits = [
        {
            "digit": reading.digit,
            "top": [{"digit": digit, "probability": probability} for digit, probability in reading.top(3)],
            "warning": reading.warning,
            "box": reading.box,
        }
        for reading in readings
    ]
    return {"image": name, "digits": digits, "warning": None if digits else NO_DIGIT}


def as_text(name: str, readings: "list[Reading]") -> str:
    """The same for a person: a line for each digit."""
    lines = []
    for reading in readings:
        top = "   ".join(f"{digit} {100 * probability:6.2f} %" for digit, probability in reading.top(3))
        lines.append(f"{name}: {top}" if reading.warning is None else f"{name}: ? {reading.warning} ({top})")
    return "\n".join(lines) or f"{name}: ? {NO_DIGIT}"


def _load_reader(workdir: str) -> "DigitReader":
    # Late: it imports JAX, and mistakes come first. Nothing of what is imported is garbage: looking through it, now and
    # at the end once more, would take a sixth of a short command's time.
    gc.disable()
    from digits_jax.apps.reader.digit_reader import load_reader

    gc.freeze()
    gc.enable()
    return load_reader(workdir, checkpoint=CHECKPOINT.value)


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        raise ConfigError("no picture is given: expected files, folders of them, or - for standard input")
    workdir = cli.required("workdir", "runs/bn_dropout/0123abcd")
    if SHOW.value is not None and not SHOW.value.endswith(".png"):
        raise ConfigError(f"--show is {SHOW.value!r}: expected the name of a PNG, such as seen.png")
    reader, answers, shown, mistakes = None, [], [], 0
    for name in files_of(argv[1:]):
        try:
            picture = read_picture(name)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            answers.append({"image": name, "error": str(error)})
            mistakes += 1
            continue
        if reader is None:
            reader = _load_reader(workdir)
        if picture.frames > 1:
            print(f"note: {name} has {picture.frames} frames: the first is read", file=sys.stderr)
        readings = reader.read(picture.pixels)
        answers.append(as_json(name, readings))
        shown += [(picture.pixels, readings)] * (SHOW.value is not None)
        if not JSON.value:
            print(as_text(name, readings))
    if JSON.value:
        print(json.dumps(answers, indent=1))
    if shown:
        from digits_jax.apps.reader.contact_sheet import save_sheet

        save_sheet(shown, str(SHOW.value))
    return 1 if mistakes else 0


if __name__ == "__main__":
    cli.run(main, positional=True)

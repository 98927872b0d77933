"""A trained model that reads pictures: which digits are in them, and which of those may be none.

What it needs of the run is kept in the user's cache folder, so that a command answers in a second or two: reading the
checkpoint takes as long again, and passing the training images through the network several times as long.
"""

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from digits_jax import data, ops
from digits_jax.apps.reader import familiarity
from digits_jax.apps.reader.digit_images import SIZE, find_digits
from digits_jax.apps.reader.familiarity import Familiarity, with_features
from digits_jax.apps.reader.ink import Box
from digits_jax.apps.reader.strokes import scribbled_letters
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel, load_model
from digits_jax.storage import MANIFEST, enable_compilation_cache, is_bucket, user_cache_dir

_FORMAT = "1"  # of what is kept: changes with what is in it
_DIGITS, _LETTERS = 20_000, 60  # training images, and scribbles of each letter, that familiarity is learned from
_AMONG = "among more that is no digit"
_STRANGE = "like no digit that the network was trained on"


class Reading(NamedTuple):
    """What the network makes of one digit."""

    image: np.ndarray  # uint8 [28, 28], as the network saw it
    box: Box  # in the picture
    probabilities: np.ndarray  # float32 [num_classes]
    warning: str | None  # why it may be no digit

    @property
    def digit(self) -> int:
        return int(self.probabilities.argmax())

    def top(self, count: int) -> list[tuple[int, float]]:
        """The most probable digits with their probabilities, in decreasing order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(digit), float(self.probabilities[digit])) for digit in order]


class DigitReader:
    """A model, and what its answers are compared with; None where its training images are not at hand."""

    def __init__(self, model: TrainedModel, known: Familiarity | None) -> None:
        self.model = model
        self.known = known
        self._answers = with_features(model, part_size=8)

    @property
    def description(self) -> str:
        """The model in a line."""
        name, dataset = self.model.config.model.name, self.model.config.dataset.name
        accuracy = self.model.metrics.get("test/accuracy")
        right = "" if accuracy is None else f", {100 * accuracy:.2f} % of its test images right"
        return f"{name} trained on {dataset} for {self.model.step:,} steps{right}"

    def read(self, pixels: np.ndarray) -> list[Reading]:
        """Reads a picture `[H, W, 4]`, as of `pictures.Picture`, row by row and from left to right."""
        digits = find_digits(pixels)
        images = np.array([digit.image for digit in digits], np.uint8).reshape(-1, SIZE, SIZE)
        probabilities, strange = self.answers(images)
        warnings = [digit.warning or (_STRANGE if odd else None) for digit, odd in zip(digits, strange, strict=True)]
        if sum(warning is not None for warning in warnings) > len(digits) / 2:
            warnings = [warning or _AMONG for warning in warnings]
        return [
            Reading(digit.image, digit.box, row, warning)
            for digit, row, warning in zip(digits, probabilities, warnings, strict=True)
        ]

    def answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of images, uint8 `[N, 28, 28]`, the probabilities `[N, num_classes]`, and whether strange, bool `[N]`."""
        # For a few digits starting is all that takes time, and XLA's own convolution is traced in half a second less.
        with ops.using("lax"):
            logits, features = self._answers(images)
        strange = self.known.is_strange(features) if self.known else np.zeros(len(images), bool)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True), strange


def load_reader(workdir: str, *, checkpoint: str) -> DigitReader:
    """The reader that a run has trained: from the cache folder, or from the run and its data, then kept there.

    Without the training images it reads all the same, warns of less, and says so on standard error.

    Raises:
      UserError, ConfigError: as of `load_model`; or the images that the model takes are of another shape.
    """
    enable_compilation_cache()
    file = None if is_bucket(workdir) else _kept_file(Path(workdir), checkpoint)
    if file is not None and (kept := _read_kept(file)):
        return kept
    model = load_model(workdir, checkpoint=checkpoint)
    if model.image_shape != (SIZE, SIZE, 1):
        height, width, channels = model.image_shape
        raise UserError(f"{workdir} takes images of {height}x{width}x{channels}: expected a run on images of 28x28x1")

    try:
        images = data.load_configured(model.config.dataset).split("train")[0]
    except UserError as error:
        print(f"warning: what is no digit may go unnoticed, for want of the training images: {error}", file=sys.stderr)
        return DigitReader(model, None)
    print("learning what digits are like to the network (once, about half a minute)", file=sys.stderr)
    features_of = with_features(model)
    known = familiarity.fit(features_of(images[:_DIGITS])[1], features_of(scribbled_letters(_LETTERS))[1])
    reader = DigitReader(model, known)
    if file is not None:
        _keep(file, reader)
    return reader


def _kept_file(workdir: Path, checkpoint: str) -> Path:
    """Its name is the hash of all that says which checkpoint is meant and what is in it."""
    described = hashlib.sha256(f"{_FORMAT} {checkpoint}\n".encode())
    for path in [workdir / "run.json", *sorted(workdir.glob(f"checkpoints/*/{MANIFEST}"))]:
        described.update(path.read_bytes() if path.exists() else b"")
    return user_cache_dir() / "readers" / f"{described.hexdigest()[:16]}.npz"


def _keep(file: Path, reader: DigitReader) -> None:
    model, known = reader.model, reader.known
    assert known is not None
    about = json.dumps({"run": model.run, "step": model.step, "metrics": model.metrics})
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as opened:
            np.savez(opened, about=about, **known._asdict(), **flatten_dict(model.variables, sep="/"))
        temporary.replace(file)
    except OSError as error:
        print(f"warning: {file} cannot be written ({error.strerror}): the next start is as slow", file=sys.stderr)


def _read_kept(file: Path) -> DigitReader | None:
    try:
        with file.open("rb") as stored, np.load(stored) as arrays:  # NumPy leaves a damaged file open
            about = json.loads(str(arrays["about"]))
            known = Familiarity(*(arrays[name] for name in Familiarity._fields))
            variables = unflatten_dict({name: arrays[name] for name in arrays.files if "/" in name}, sep="/")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged: it is made anew
        return None
    model = TrainedModel(about["run"], {"batch_stats": {}, **variables}, step=about["step"], metrics=about["metrics"])
    return DigitReader(model, known)

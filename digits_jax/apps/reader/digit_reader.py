"""A trained model that reads pictures and rejects what is probably not a digit.

The parameters and the outlier detector are cached in the user's cache directory, so that a command takes a second or
two: reading the checkpoint would double that, and computing the features of the training images takes far longer.
"""

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from digits_jax import data, storage
from digits_jax.apps.reader.normalization import SIZE, Digit, fill_outline, find_shapes, normalize
from digits_jax.apps.reader.outliers import OutlierDetector, fit_detector, with_features
from digits_jax.apps.reader.segmentation import Box, Mark
from digits_jax.apps.reader.strokes import letter_images
from digits_jax.apps.reader.touching import Row, RowReader, cut
from digits_jax.errors import UserError
from digits_jax.runs.registration import read_config
from digits_jax.runs.shipped import read_shipped
from digits_jax.runs.trained_model import TrainedModel, load_model

_CACHE_VERSION = "3"  # changes with the content of a cache file
_NUM_DIGITS, _NUM_LETTERS = 20_000, 60  # that the detector is fitted to: training images, and drawings of each letter
_MIN_PROBABILITY = 1e-4  # where smoothed labels are undone, which would give exact zeros
_MIN_FILLED = 2.0  # times the ink of an outline
_WIDEST_PEN = 6.0  # pixels of the box, of a filled outline
_MIN_ROW, _MIN_SINGLE = 0.9, 0.05  # probability that a shape is a row of several digits, or a single one
_TOUCHING = "no digit, or several that touch"
_OUTLIER = "unlike the digits that the model was trained on"
_SURROUNDED = "among shapes that are not digits"


class Reading(NamedTuple):
    """The model's prediction for one digit of a picture."""

    image: np.ndarray  # uint8 [28, 28], the model's input
    box: Box  # in the picture
    probabilities: np.ndarray  # float32 [num_classes]
    warning: str | None  # why it is rejected, if it is

    @property
    def digit(self) -> int:
        return int(self.probabilities.argmax())

    def top(self, count: int) -> list[tuple[int, float]]:
        """Returns the most probable digits with their probabilities, in decreasing order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(digit), float(self.probabilities[digit])) for digit in order]


class Page(NamedTuple):
    """The digits and marks of a picture."""

    digits: list[Reading]  # row by row and from left to right
    marks: list[Mark]


class DigitReader:
    """A model and its outlier detector, which is None if the training images are not available."""

    def __init__(self, model: TrainedModel, detector: OutlierDetector | None) -> None:
        self.model = model
        self.detector = detector
        self._rows = RowReader()
        # Starting takes most of the time for a few digits, and XLA's own convolution is traced in half a second less.
        self._forward = with_features(model, kernels="lax", part_size=8)

    @property
    def description(self) -> str:
        """The model in one line."""
        name, dataset = self.model.config.model.name, self.model.config.dataset.name
        accuracy = self.model.metrics.get("test/accuracy")
        suffix = "" if accuracy is None else f", test accuracy {accuracy:.2%}"
        if suffix and self.model.selected_by == "test/accuracy":
            suffix += ", by which this epoch was selected"
        return f"{name} trained on {dataset} for {self.model.step:,} steps{suffix}"

    def read(self, pixels: np.ndarray) -> Page:
        """Reads a picture, the `[H, W, 4]` pixels of a `Picture`."""
        shapes, marks, threshold = find_shapes(pixels)
        shapes = [self._fill(shape, threshold) for shape in shapes]
        rows = self._rows.read([shape.ink for shape in shapes], threshold)
        images = np.array([shape.image for shape in shapes], np.uint8).reshape(-1, SIZE, SIZE)
        digits: list[Reading] = []
        for shape, row, probabilities, is_outlier in zip(shapes, rows, *self.predict(images), strict=True):
            several = len(row.digits) > 1 and shape.warning is None
            is_row = several and row.probability > _MIN_ROW
            doubt = None if is_row or row.single > _MIN_SINGLE else _TOUCHING
            if several and (is_row or doubt):
                digits += _cut(shape, row, threshold, warning=doubt)
            else:
                warning = shape.warning or (_OUTLIER if is_outlier else doubt)
                digits.append(Reading(shape.image, shape.box, probabilities, warning))
        warnings = [digit.warning for digit in digits]
        dashes = sum(mark.symbol == "-" for mark in marks)  # points may also be dirt
        if sum(warning is not None for warning in warnings) + dashes > (len(digits) + dashes) / 2:
            warnings = [warning or _SURROUNDED for warning in warnings]
        return Page([d._replace(warning=warning) for d, warning in zip(digits, warnings, strict=True)], marks)

    def _fill(self, shape: Digit, threshold: float) -> Digit:
        """Fills a shape if it is the outline of a digit, which both networks find more probable filled."""
        filled = fill_outline(shape.ink, threshold)
        if np.count_nonzero(filled > threshold) < _MIN_FILLED * np.count_nonzero(shape.ink > threshold):
            return shape
        image, width = normalize(filled, threshold)
        if width > _WIDEST_PEN:
            return shape
        outline_row, filled_row = self._rows.read([shape.ink, filled], threshold)
        as_outline, as_filled = self.predict(np.stack([shape.image, image]))[0].max(axis=1)
        if as_filled <= as_outline or filled_row.single <= outline_row.single:
            return shape
        return shape._replace(image=image, ink=filled)

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the probabilities `[N, num_classes]` of uint8 images `[N, 28, 28]`, and which are outliers `[N]`."""
        logits, features = self._forward(images)
        is_outlier = self.detector.is_outlier(features) if self.detector else np.zeros(len(images), bool)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        return _unsmoothed(probabilities, self.model.config.loss.get("label_smoothing", 0.0)), is_outlier


def _cut(shape: Digit, row: Row, threshold: float, *, warning: str | None) -> list[Reading]:
    """Cuts a shape between the digits of a row."""
    left, top = max(shape.box[0] - 1, 0), max(shape.box[1] - 1, 0)  # of the shape's ink
    readings = []
    for probabilities, (ink, box) in zip(row.probabilities, cut(shape.ink, threshold, row.middles), strict=True):
        image = normalize(ink, threshold)[0] if np.any(ink > threshold) else np.zeros((SIZE, SIZE), np.uint8)
        moved = left + box[0], top + box[1], left + box[2], top + box[3]
        readings.append(Reading(image, moved, probabilities, warning))
    return readings


def _unsmoothed(probabilities: np.ndarray, smoothing: float) -> np.ndarray:
    """Returns the probabilities `[N, K]` of a model that was trained on smoothed labels, as if without.

    Where the true probabilities are p, smoothed labels (Szegedy et al. 2016) teach (1 - smoothing) p + smoothing / K,
    from which p follows. Each is at least `_MIN_PROBABILITY`.
    """
    if not smoothing:
        return probabilities
    num_classes = probabilities.shape[1]
    unsmoothed = ((probabilities - smoothing / num_classes) / (1 - smoothing)).clip(_MIN_PROBABILITY, 1)
    return unsmoothed / unsmoothed.sum(axis=1, keepdims=True)


def load_reader(workdir: str | None, *, checkpoint: str, data_dir: str | None = None) -> DigitReader:
    """Loads a run's model and its outlier detector from the cache, or builds and caches them; or what is shipped.

    The training images are read from `data_dir` as by `data.load`. Without them there is no detector; a warning on
    standard error says so.

    Raises:
      UserError, ConfigError: as for `load_model`, or the model is not one of digits in images of 28x28x1.
    """
    storage.enable_compilation_cache()
    if workdir is None:
        model, arrays = load_model(checkpoint=checkpoint), read_shipped()[1]
        # In float16 on disk, which keeps the file small; NumPy multiplies float32 faster.
        detector = OutlierDetector(*(arrays[f"outliers/{name}"].astype(np.float32) for name in OutlierDetector._fields))
        return DigitReader(model, detector)
    file = None if storage.is_bucket(workdir) else _cache_file(storage.open_path(workdir), checkpoint)
    if file is not None and (cached := _read_cache(file, workdir)):
        return cached
    model = load_model(workdir, checkpoint=checkpoint)
    if (model.image_shape, model.num_classes) != ((SIZE, SIZE, 1), 10):
        found = f"{model.num_classes} classes and images of {'x'.join(map(str, model.image_shape))}"
        raise UserError(f"{workdir} has {found}: expected a run on the 10 digits in images of 28x28x1")

    try:
        images = data.load_configured(model.config.dataset, data_dir=data_dir).split("train")[0]
    except UserError as error:
        print(f"warning: inputs that are not digits may be accepted, without training images: {error}", file=sys.stderr)
        return DigitReader(model, None)
    print("fitting the outlier detector (once, about half a minute)", file=sys.stderr)
    forward = with_features(model)
    detector = fit_detector(forward(images[:_NUM_DIGITS])[1], forward(letter_images(_NUM_LETTERS))[1])
    if file is not None:
        _write_cache(file, model, detector)
    return DigitReader(model, detector)


def _cache_file(workdir: Path, checkpoint: str) -> Path:
    """Returns a path that depends on the run, all of its checkpoints, and which of them is asked for."""
    digest = hashlib.sha256(f"{_CACHE_VERSION} {checkpoint}\n".encode())
    for path in [workdir / "run.json", *sorted(workdir.glob(f"checkpoints/*/{storage.MANIFEST}"))]:
        digest.update(storage.read_text(path).encode() if path.exists() else b"")
    return storage.user_cache_dir() / "readers" / f"{digest.hexdigest()[:16]}.npz"


def _write_cache(file: Path, model: TrainedModel, detector: OutlierDetector) -> None:
    """Writes the arrays of a reader as an `.npz` file that ends in the SHA-256 of its bytes."""
    about = json.dumps({name: getattr(model, name) for name in ("run", "step", "metrics", "selected_by")})
    archive = io.BytesIO()
    np.savez(archive, about=np.array(about), **detector._asdict(), **flatten_dict(model.variables, sep="/"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        storage.replace_bytes(file, storage.seal(archive))
    except OSError as error:
        print(f"warning: {file} cannot be written ({error.strerror}): the next start is as slow", file=sys.stderr)


def _read_cache(file: Path, workdir: str) -> DigitReader | None:
    """Returns the cached reader, or None if there is none or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if not storage.is_sealed(content):
        return None
    with np.load(io.BytesIO(content)) as arrays:
        about = json.loads(str(arrays["about"]))
        detector = OutlierDetector(*(arrays[name] for name in OutlierDetector._fields))
        read_config(about["run"], workdir)
        variables = unflatten_dict({name: arrays[name] for name in arrays.files if "/" in name}, sep="/")
    return DigitReader(TrainedModel(variables={"batch_stats": {}, **variables}, **about), detector)

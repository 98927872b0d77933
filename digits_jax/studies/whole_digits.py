"""Trains the network that tells a whole digit from parts of touching ones: `python -m digits_jax.studies.whole_digits`

Its examples are cut from rows of one to three of MNIST's training digits that touch, as `reader.touching` cuts a shape.
The file is `digits_jax/weights/whole.npz`, or where `--weights` says. Takes a quarter of an hour on two cores.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax.traverse_util import flatten_dict
from PIL import Image
from scipy import ndimage

from digits_jax import cli, data, load_model, storage
from digits_jax.apps.command_flags import DATA_DIR
from digits_jax.apps.reader.normalization import normalize
from digits_jax.apps.reader.segmentation import stroke_width
from digits_jax.apps.reader.strokes import letter_images
from digits_jax.apps.reader.touching import NOT_WHOLE, WholeDigits, find_parts
from digits_jax.runs import shipped

WEIGHTS = cli.DEFINE_path("weights", str(shipped.FOLDER), "directory to write to")
ROWS = flags.DEFINE_integer("rows", 3000, "number of rows of digits that are cut", lower_bound=1)

_NUM_IMAGES, _NUM_SINGLE = 50_000, 25_000  # training images, and those of them that are used uncut, too
_NUM_LETTERS = 60  # drawings of each letter
_INK = 0.4  # of a pixel, from which on it counts
_WHOLE, _NOT_WHOLE = 0.86, 0.75  # intersection over union of a part and a digit: at least, at most
_LITTLE, _MUCH = 0.2, 0.45  # of another digit's ink: a whole digit has less than the first
_KEPT, _KEPT_MUCH = 0.3, 0.6  # fractions of the parts that are not whole, with less and more than `_MUCH`
_EPOCHS, _BATCH_SIZE, _RATE = 6, 128, 3e-3


def draw_row(images: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draws digits side by side so that they touch.

    Returns the ink `[H, W]` and the mask of each digit in it.
    """
    height = int(random.integers(30, 36))  # a row stays below the height at which shapes are cut
    slant = random.uniform(-0.3, 0.3)
    shapes = [_enlarged(image, height, slant + random.normal(0, 0.06), random) for image in images]
    total = max(shape.shape[0] for shape in shapes) + 8
    ink = np.zeros((total, sum(shape.shape[1] for shape in shapes) + 40), np.float32)
    digits: list[np.ndarray] = []
    left = 0
    for shape in shapes:
        top = random.integers(0, total - shape.shape[0] + 1)
        if digits:
            left = max(0, _contact(ink[top : top + shape.shape[0]] > _INK, shape > _INK, random.uniform(0, 0.8)))
        own = np.zeros_like(ink)
        width = min(shape.shape[1], ink.shape[1] - left)
        own[top : top + shape.shape[0], left : left + width] = shape[:, :width]
        digits.append(own > _INK)
        ink = np.maximum(ink, own)
    rows, columns = ndimage.find_objects((ink > _INK).astype(int))[0]
    return ink[rows, columns], [digit[rows, columns] for digit in digits]


def _enlarged(image: np.ndarray, height: int, slant: float, random: np.random.Generator) -> np.ndarray:
    """Returns the ink of one of MNIST's digits, about `height` pixels high, sheared and stretched."""
    scale, middle = height / 20 * random.uniform(0.85, 1.15), 2 * height
    across, down = 1 / (scale * random.uniform(0.8, 1.2)), 1 / scale  # pixels of the image per pixel of ink
    skew = -slant * across
    matrix = (across, skew, 14 - middle * (across + skew), 0, down, 14 - middle * down)
    side = 2 * middle
    large = Image.fromarray(image).transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    ink = np.asarray(large, np.float32) / 255
    return ink[ndimage.find_objects((ink > _INK).astype(int))[0]]


def _contact(before: np.ndarray, shape: np.ndarray, overlap: float) -> int:
    """Returns the column at which a shape overlaps what is before it by a fraction of its stroke's width."""
    stroke = stroke_width(ndimage.distance_transform_edt(shape)[shape])
    both = np.flatnonzero(before.any(axis=1) & shape.any(axis=1))
    rights = [np.flatnonzero(before[row])[-1] - np.flatnonzero(shape[row])[0] for row in both]
    return max(rights, default=before.shape[1] // 2) + 1 - int(overlap * stroke)


def examples(images: np.ndarray, labels: np.ndarray, *, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts rows of random digits; returns parts, uint8 `[N, 28, 28]`, and the class of each, 0 to 9 or `NOT_WHOLE`."""
    random = np.random.default_rng(0)
    found, classes = [], []
    for _ in range(rows):
        chosen = random.integers(0, len(images), random.choice([1, 2, 2, 3, 3]))
        ink, digits = draw_row(images[chosen], random)
        for part in find_parts(ink, _INK):
            label = _class_of(part.mask, digits, labels[chosen], random)
            if label is not None:
                found.append(normalize(part.ink, _INK)[0])
                classes.append(label)
    return np.array(found), np.array(classes)


def _class_of(
    part: np.ndarray, digits: list[np.ndarray], labels: np.ndarray, random: np.random.Generator
) -> int | None:
    """Returns the class of a part, given by its mask, or None if it is neither whole nor not, or one of too many."""
    common = [np.count_nonzero(part & digit) for digit in digits]
    overlaps = [both / np.count_nonzero(part | digit) for both, digit in zip(common, digits, strict=True)]
    best = int(np.argmax(overlaps))
    others = [both / np.count_nonzero(digit) for both, digit in zip(common, digits, strict=True)]
    foreign = max(others[:best] + others[best + 1 :], default=0)
    if overlaps[best] >= _WHOLE and foreign < _LITTLE:
        return int(labels[best])
    if foreign > _MUCH:
        return NOT_WHOLE if random.random() < _KEPT_MUCH else None
    return NOT_WHOLE if overlaps[best] <= _NOT_WHOLE and random.random() < _KEPT else None


def train(images: np.ndarray, classes: np.ndarray) -> dict:
    """Trains the network, with images shifted by up to a pixel; returns its variables."""
    network = WholeDigits()
    key = jax.random.key(0)
    variables: Any = network.init(key, jnp.zeros((1, 28, 28)))
    steps = _EPOCHS * (len(images) // _BATCH_SIZE)
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, _RATE), weight_decay=1e-3)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables: dict, state: optax.OptState, key: jax.Array, images: jax.Array, classes: jax.Array) -> tuple:
        shift = jax.random.randint(key, (2,), -1, 2)
        images = jnp.roll(images / 255, shift, axis=(1, 2))

        def loss_of(variables: dict) -> jax.Array:
            log_probabilities: Any = network.apply(variables, images)
            return -jnp.take_along_axis(log_probabilities, classes[:, None], axis=1).mean()

        updates, state = optimizer.update(jax.grad(loss_of)(variables), state, variables)
        return optax.apply_updates(variables, updates), state

    for number, batch in enumerate(_batches(len(images))):
        variables, state = step(variables, state, jax.random.fold_in(key, number), images[batch], classes[batch])
    return variables


def _batches(count: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(1)
    for _ in range(_EPOCHS):
        order = random.permutation(count)
        yield from order[: count // _BATCH_SIZE * _BATCH_SIZE].reshape(-1, _BATCH_SIZE)


def main(argv: list[str]) -> None:
    dataset = load_model().config.dataset
    images, labels = (
        part[:_NUM_IMAGES] for part in data.load_configured(dataset, data_dir=DATA_DIR.value).split("train")
    )
    images = images.reshape(-1, 28, 28)
    parts, classes = examples(images, labels, rows=ROWS.value)
    letters = letter_images(_NUM_LETTERS)
    parts = np.concatenate([parts, images[:_NUM_SINGLE], letters])
    classes = np.concatenate([classes, labels[:_NUM_SINGLE], np.full(len(letters), NOT_WHOLE)])
    cli.console.print(f"training on {len(parts):,} images, {np.mean(classes == NOT_WHOLE):.0%} of which are not whole")
    variables = train(parts, classes)
    archive = io.BytesIO()
    arrays: dict[str, Any] = flatten_dict(jax.tree.map(lambda array: np.asarray(array, np.float16), variables), sep="/")
    np.savez(archive, **arrays)
    folder = Path(WEIGHTS.value)
    folder.mkdir(parents=True, exist_ok=True)
    storage.replace_bytes(folder / "whole.npz", archive.getbuffer())
    storage.write_manifest(folder)


if __name__ == "__main__":
    cli.run(main)

"""Trains the network that reads rows of touching digits: `python -m digits_jax.studies.touching_rows`

Its examples are rows of one to three of MNIST's training digits, and drawn letters. The file is
`digits_jax/weights/rows.npz`, or where `--weights` says. Takes half an hour on two cores.
"""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax.traverse_util import flatten_dict
from PIL import Image
from scipy import ndimage

from digits_jax import cli, data, load_model, ops, storage
from digits_jax.apps.command_flags import DATA_DIR
from digits_jax.apps.reader.normalization import normalize_row
from digits_jax.apps.reader.segmentation import stroke_width
from digits_jax.apps.reader.strokes import draw_letters
from digits_jax.apps.reader.touching import (
    HEIGHT,
    WIDTH,
    RowNetwork,
    columns_of,
    ctc_loss,
    num_columns,
    pad_row,
)
from digits_jax.runs import shipped

WEIGHTS = cli.DEFINE_path("weights", str(shipped.FOLDER), "directory to write to")
ROWS = flags.DEFINE_integer("rows", 60_000, "number of rows of digits", lower_bound=64)

_NUM_IMAGES = 50_000  # training images
_LENGTHS = (1, 1, 2, 2, 2, 3, 3)  # digits of a row
_NUM_LETTERS = 150  # drawings of each letter, which the network labels as blank
_INK = 0.4  # of a pixel, from which on it counts
_EPOCHS, _BATCH_SIZE, _RATE = 9, 64, 3e-3


def draw_row(images: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Draws digits side by side so that they touch, or almost do.

    Returns their ink `[H, W]`, and the middle of each in fractions of its width.
    """
    height = int(random.integers(30, 36))
    slant = random.uniform(-0.3, 0.3)
    shapes = [_enlarged(image, height, slant + random.normal(0, 0.06), random) for image in images]
    total = max(shape.shape[0] for shape in shapes) + random.integers(0, 9)
    ink = np.zeros((total, sum(shape.shape[1] for shape in shapes) + 40), np.float32)
    left, middles = 0, []
    for i, shape in enumerate(shapes):
        top = random.integers(0, total - shape.shape[0] + 1)
        if i:
            before = ink[top : top + shape.shape[0]] > _INK
            left = max(0, _contact(before, shape > _INK, random.uniform(-0.4, 0.8)))
        width = min(shape.shape[1], ink.shape[1] - left)
        part = ink[top : top + shape.shape[0], left : left + width]
        np.maximum(part, shape[:, :width], out=part)
        middles.append(left + width / 2)
    rows, columns = ndimage.find_objects((ink > _INK).astype(int))[0]
    return ink[rows, columns], [(middle - columns.start) / (columns.stop - columns.start) for middle in middles]


def _enlarged(image: np.ndarray, height: int, slant: float, random: np.random.Generator) -> np.ndarray:
    """Returns the ink of one of MNIST's digits, about `height` pixels high, sheared and stretched."""
    scale, middle = height / 20 * random.uniform(0.85, 1.15), 2 * height
    across, down = 1 / (scale * random.uniform(0.7, 1.25)), 1 / scale  # pixels of the image per pixel of ink
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


class Examples(NamedTuple):
    """Rows and what they read; digits are counted from 1, 0 is a blank."""

    rows: np.ndarray  # uint8 [N, 28, 96]
    labels: np.ndarray  # int32 [N, 3], padded with 0
    columns: np.ndarray  # int32 [N, 43]: the digits at the network's columns next to their middles


def examples(images: np.ndarray, labels: np.ndarray, *, rows: int) -> Examples:
    """Draws rows of random digits, and letters, but for the few that are wider."""
    random = np.random.default_rng(0)
    found = []

    def add(ink: np.ndarray, digits: np.ndarray, middles: Sequence[float]) -> None:
        row = normalize_row(ink, _INK)
        columns = np.zeros(num_columns(WIDTH), np.int32)
        padded = pad_row(row)
        if padded.shape[1] == WIDTH:
            columns[columns_of(middles, row.shape[1])] = digits
            found.append((padded, np.pad(digits, (0, max(_LENGTHS) - len(digits))).astype(np.int32), columns))

    for _ in range(rows):
        chosen = random.integers(0, len(images), random.choice(_LENGTHS))
        ink, middles = draw_row(images[chosen], random)
        add(ink, labels[chosen] + 1, middles)
    for letter in draw_letters(_NUM_LETTERS):
        add(letter, np.zeros(0, int), ())
    return Examples(*map(np.stack, zip(*found, strict=True)))


def train(data: Examples) -> dict:
    """Trains the network, with rows shifted by a few pixels; returns its variables.

    In the first epoch it learns the middles of digits: with CTC alone it labels everything as blank for two.
    """
    network = RowNetwork()
    key = jax.random.key(0)
    variables: Any = network.init(key, jnp.zeros((1, HEIGHT, WIDTH)))
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(_EPOCHS * (len(data.rows) // _BATCH_SIZE), _RATE))
    state = optimizer.init(variables)

    @functools.partial(ops.jit, static_argnames="aligned")
    def step(variables: dict, state: optax.OptState, key: jax.Array, batch: Examples, *, aligned: bool) -> tuple:
        shift = jax.random.randint(key, (2,), jnp.array([-1, -2]), jnp.array([2, 3]))
        rows = jnp.roll(batch.rows / 255, shift, axis=(1, 2))

        def loss_of(variables: dict) -> jax.Array:
            logits: Any = network.apply(variables, rows)
            if aligned:
                return optax.softmax_cross_entropy_with_integer_labels(logits, batch.columns).sum(axis=1).mean()
            return ctc_loss(logits, batch.labels).mean()

        updates, state = optimizer.update(jax.grad(loss_of)(variables), state, variables)
        return optax.apply_updates(variables, updates), state

    number = 0
    for epoch in range(_EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(data.rows))
        for batch in order[: len(order) // _BATCH_SIZE * _BATCH_SIZE].reshape(-1, _BATCH_SIZE):
            examples = Examples(*(part[batch] for part in data))
            variables, state = step(variables, state, jax.random.fold_in(key, number), examples, aligned=epoch == 0)
            number += 1
    return variables


def main(argv: list[str]) -> None:
    dataset = load_model().config.dataset
    images, labels = data.load_configured(dataset, data_dir=DATA_DIR.value).split("train")
    images = images.reshape(-1, 28, 28)
    variables = train(examples(images[:_NUM_IMAGES], labels[:_NUM_IMAGES], rows=ROWS.value))
    archive = io.BytesIO()
    arrays: dict[str, Any] = flatten_dict(jax.tree.map(lambda array: np.asarray(array, np.float16), variables), sep="/")
    np.savez(archive, **arrays)
    folder = Path(WEIGHTS.value)
    folder.mkdir(parents=True, exist_ok=True)
    storage.replace_bytes(folder / "rows.npz", archive.getbuffer())
    storage.write_manifest(folder)


if __name__ == "__main__":
    cli.run(main)

"""The numbers that the post printed, those of our runs, and which of the former lie among the latter.

Arrays have the shape `[epochs, 4]`: loss (nats) and accuracy [0, 1] of training, then of validation.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from digits_jax.errors import UserError
from digits_jax.studies.report.statistics import prediction_interval
from digits_jax.studies.results import Result

# By config, in the post's order.
EXPERIMENTS = {
    "linear": "softmax regression",
    "linear_augmented": "softmax regression on augmented images",
    "vgg": "a small VGG-like network",
    "vgg_augmented": "the network on augmented images",
    "dropout": "the network with dropout 0.5 after each block",
    "bn_dropout": "the network with batch normalization after each activation and dropout before the last layer",
}
METRICS = ("train loss", "train accuracy", "validation loss", "validation accuracy")
# Test sets by which a run may have been validated, the most similar to the post's validation first.
VALIDATION = ("test_stream", "test_augmented", "test")
_TRAINING_IMAGES, _TEST_IMAGES = 60_000, 10_000


def read_table(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Reads columns of a CSV file; raises a UserError if it cannot be read or lacks one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [[row[column] for column in columns] for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error!r}): expected {','.join(columns)}") from None


def read_post_log(path: Path) -> dict[str, np.ndarray]:
    """Reads the printed numbers by experiment; raises a UserError if the file is no such table."""
    log: dict[str, list[list[float]]] = {}
    try:
        for name, _, *numbers in read_table(path, ("experiment", "epoch", *(m.replace(" ", "_") for m in METRICS))):
            log.setdefault(name, []).append([float(number) for number in numbers])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected numbers") from None
    return {name: np.array(rows) for name, rows in log.items()}


def numbers_of(result: Result, validation: Sequence[str] = VALIDATION) -> np.ndarray:
    """Returns the numbers of a run, validated on the first of `validation` that it was evaluated on."""
    first = result["epochs"][0]
    scored = next(key for key in validation if f"{key}/loss" in first)
    metrics = ("train/loss", "train/accuracy", f"{scored}/loss", f"{scored}/accuracy")
    return np.array([[row[metric] for metric in metrics] for row in result["epochs"]])


def on_normal_scale(numbers: np.ndarray) -> np.ndarray:
    """Returns the logarithms of losses and the log-odds of accuracies, whose variance hardly changes during training.

    An accuracy of n in N counts as (n + 1/2) / (N + 1), so that 100% is finite (Cox & Snell 1989, section 1.6).
    """
    counts = np.array([_TRAINING_IMAGES, _TEST_IMAGES])
    accuracies = (numbers[..., 1::2] * counts + 0.5) / (counts + 1)
    scaled = np.log(numbers)
    scaled[..., 1::2] = np.log(accuracies / (1 - accuracies))
    return scaled


def from_normal_scale(scaled: np.ndarray) -> np.ndarray:
    """Inverts `on_normal_scale`."""
    counts = np.array([_TRAINING_IMAGES, _TEST_IMAGES])
    numbers = np.exp(scaled)
    numbers[..., 1::2] = (numbers[..., 1::2] / (1 + numbers[..., 1::2]) * (counts + 1) - 0.5) / counts
    return numbers


def interval(runs: ArrayLike, *, confidence: float = 0.99, pooled: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Returns the limits of the prediction intervals for one more run than the two or more given; see `inside`."""
    ours = on_normal_scale(np.asarray(runs))
    limits = [
        prediction_interval(ours[..., column], confidence=confidence, pooled=pooled) for column in range(len(METRICS))
    ]
    low, high = np.moveaxis(np.array(limits), 0, -1)
    return low, high


def inside(numbers: np.ndarray, runs: ArrayLike, *, confidence: float = 0.99, pooled: bool = True) -> np.ndarray:
    """Returns which numbers lie in the prediction interval for one more run than the two or more given, as bool."""
    low, high = interval(runs, confidence=confidence, pooled=pooled)
    return (low <= on_normal_scale(numbers)) & (on_normal_scale(numbers) <= high)


def inside_without_each(runs: ArrayLike, **options: Any) -> Iterator[np.ndarray]:
    """Yields the same for each of our own runs among the others: what a faithful log would reach."""
    for index, run in enumerate(np.asarray(runs)):
        yield inside(run, np.delete(runs, index, axis=0), **options)

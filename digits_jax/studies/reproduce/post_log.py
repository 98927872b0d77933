"""The figures that the post printed, the same figures of our runs, and whether the ones lie among the others.

All arrays of figures have the shape `[epochs, 4]`: loss (nats) and accuracy [0, 1] of training, then of validation.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.errors import UserError
from digits_jax.studies.report.statistics import prediction_interval

# By config, in the post's order.
EXPERIMENTS = {
    "linear": "softmax regression",
    "linear_augmented": "softmax regression on augmented images",
    "vgg": "a small VGG-like network",
    "vgg_augmented": "the network on augmented images",
    "dropout": "the network, half of each block's outputs dropped",
    "bn_dropout": "the network, batch normalisation after each activation, dropout before the last layer",
}
FIGURES = ("train loss", "train accuracy", "validation loss", "validation accuracy")
# What a run may have been scored on, the likest to the post's validation first.
VALIDATION = ("test_stream", "test_augmented", "test")
_COLUMNS = ("experiment", "epoch", *(name.replace(" ", "_") for name in FIGURES))
_TRAINING_IMAGES, _TEST_IMAGES = 60_000, 10_000


def read_post_log(path: Path) -> dict[str, np.ndarray]:
    """The printed figures by experiment.

    Raises:
      UserError: the file cannot be read, or is no such table.
    """
    try:
        with path.open(newline="") as file:
            rows = [{key: row[key] for key in _COLUMNS} for row in csv.DictReader(file)]
        log: dict[str, list[list[float]]] = {}
        for row in rows:
            log.setdefault(row["experiment"], []).append([float(row[key]) for key in _COLUMNS[2:]])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the post's log ({error!r}): expected {','.join(_COLUMNS)}") from None
    return {name: np.array(figures) for name, figures in log.items()}


def figures_of(result: dict[str, Any], *, validation: Sequence[str] = VALIDATION) -> np.ndarray:
    """A run's figures, validated on the first of `validation` that the run was scored on."""
    first = result["epochs"][0]
    scored = next(key for key in validation if f"{key}/loss" in first)
    metrics = ("train/loss", "train/accuracy", f"{scored}/loss", f"{scored}/accuracy")
    return np.array([[row[metric] for metric in metrics] for row in result["epochs"]])


def on_normal_scale(figures: np.ndarray) -> np.ndarray:
    """Losses as logarithms and accuracies as log-odds, on which neither's spread depends on how far training is.

    An accuracy of n in N counts as (n + 1/2) / (N + 1), so that 100 % is finite (Cox & Snell 1989, section 1.6).
    """
    counts = np.array([_TRAINING_IMAGES, _TEST_IMAGES])
    accuracies = (figures[..., 1::2] * counts + 0.5) / (counts + 1)
    scaled = np.log(figures)
    scaled[..., 1::2] = np.log(accuracies / (1 - accuracies))
    return scaled


def inside(figures: np.ndarray, runs: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Which figures lie in the 99 % prediction interval for one new run.

    Args:
      figures: `[epochs, 4]`.
      runs: of at least two runs, `[runs, epochs, 4]`.

    Returns:
      bool `[epochs, 4]`.
    """
    ours, values = on_normal_scale(np.asarray(runs)), on_normal_scale(figures)
    limits = [prediction_interval(ours[..., column]) for column in range(len(FIGURES))]
    return np.stack([(low <= values[:, i]) & (values[:, i] <= high) for i, (low, high) in enumerate(limits)], axis=1)


def inside_without_each(runs: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
    """The same for each of our own runs among all others: what a faithful log would reach."""
    for index, run in enumerate(runs):
        yield inside(run, [*runs[:index], *runs[index + 1 :]])

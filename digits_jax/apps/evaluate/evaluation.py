"""Evaluates a model on the test images of a data set, clean and shifted, rotated, noisy or blurred."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from rich.progress import track
from scipy import ndimage, special, stats
from sklearn import metrics

from digits_jax.data import Dataset
from digits_jax.errors import UserError
from digits_jax.ops import warp
from digits_jax.runs.console import console
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel

NUM_BINS = 15  # as in Guo et al. (2017)


@dataclass(frozen=True)
class Accuracy:
    """The fraction of correctly classified images with its 95% interval."""

    fraction: float
    low: float
    high: float

    @classmethod
    def from_counts(cls, correct: int, count: int) -> "Accuracy":
        """Returns `correct / count` with the score interval of Wilson (1927)."""
        interval = stats.binomtest(correct, count).proportion_ci(confidence_level=0.95, method="wilson")
        return cls(correct / count, float(interval.low), float(interval.high))

    @property
    def interval(self) -> str:
        return f"{self.low:.2%} to {self.high:.2%}"


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class against all others; nan where they would divide by zero."""

    precision: float
    recall: float
    num_images: int


@dataclass(frozen=True)
class Bin:
    """The images whose confidence, the probability of the predicted class, is in (low, high]."""

    low: float
    high: float
    num_images: int
    confidence: float  # mean
    accuracy: Accuracy


@dataclass(frozen=True)
class Scores:
    accuracy: Accuracy
    loss: float  # mean cross-entropy in nats
    expected_calibration_error: float
    classes: list[ClassScores]
    confusion: list[list[int]]  # [true class][predicted class]
    bins: list[Bin]  # without empty ones


def compute_scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Computes scores from logits `[N, C]` and labels `[N]`.

    The expected calibration error is equation 3 of Guo et al. (2017), "On Calibration of Modern Neural Networks": the
    mean of |accuracy - confidence| over 15 bins of equal width, weighted by their numbers of images.
    """
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=-1)
    predicted = logits.argmax(-1)
    correct = predicted == labels
    confidence = np.exp(log_probabilities.max(-1))
    bin_of = np.clip(np.ceil(confidence * NUM_BINS) - 1, 0, NUM_BINS - 1)
    bins = []
    for m in np.unique(bin_of).tolist():
        inside = bin_of == m
        count, mean = int(inside.sum()), float(confidence[inside].mean())
        accuracy = Accuracy.from_counts(int(correct[inside].sum()), count)
        bins.append(Bin(m / NUM_BINS, (m + 1) / NUM_BINS, count, mean, accuracy))
    calibration = sum(b.num_images / len(labels) * abs(b.accuracy.fraction - b.confidence) for b in bins)
    classes = range(logits.shape[1])
    precision, recall, _, counts = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    return Scores(
        accuracy=Accuracy.from_counts(int(correct.sum()), len(labels)),
        loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        expected_calibration_error=calibration,
        classes=[ClassScores(*row) for row in zip(precision.tolist(), recall.tolist(), counts.tolist(), strict=True)],
        confusion=metrics.confusion_matrix(labels, predicted, labels=classes).tolist(),
        bins=bins,
    )


_warp = jax.jit(functools.partial(warp, interpolation="bilinear"))


class Corruption(NamedTuple):
    """A corruption whose random directions and noise depend on an image's index only, not on strength or call."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # uint8 [N, H, W, C] to real numbers

    def __call__(self, images: np.ndarray, strength: float) -> np.ndarray:
        """Returns corrupted uint8 images `[N, H, W, C]`."""
        corrupted = self.apply(images, strength, np.random.default_rng(0))
        return np.rint(corrupted).clip(0, 255).astype(np.uint8)


def _shift(images: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, len(images))
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (len(images), 1, 1))
    matrices[..., 2] = pixels * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return np.asarray(_warp(images, matrices))


def _rotate(images: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    angle = np.deg2rad(degrees) * rng.choice([-1, 1], len(images))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    center = (np.array(images.shape[1:3]) - 1) / 2
    offset = (center - rotation @ center)[..., None]
    return np.asarray(_warp(images, np.concatenate([rotation, offset], axis=-1).astype(np.float32)))


def _noise(images: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return images + deviation * rng.standard_normal(images.shape, np.float32)


def _blur(images: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(images.astype(np.float32), (0, deviation, deviation, 0), mode="nearest")


CORRUPTIONS = (
    Corruption("shift", "pixels", (1, 2, 3, 4, 5), _shift),
    Corruption("rotation", "degrees", (10, 20, 30, 40, 50), _rotate),
    Corruption("noise", "gray levels (standard deviation)", (16, 32, 48, 64, 96), _noise),
    Corruption("blur", "pixels (standard deviation)", (0.5, 1, 1.25, 1.5, 2), _blur),
)


@dataclass(frozen=True)
class Mistake:
    image: int  # index in the test set
    label: int
    taken_for: int  # the predicted class
    probability: float  # of the predicted class


@dataclass(frozen=True)
class Evaluation:
    scores: Scores
    alone: list[Accuracy]  # of each member of an ensemble; of a single model, its own
    final: list[Accuracy]  # of each member's final epoch, where these images selected another; else empty
    by_writers: dict[str, Accuracy]  # by group of writers, where they are known
    robustness: dict[str, dict[float, Accuracy]]  # by corruption and strength
    mistakes: list[Mistake]  # in decreasing order of probability


def evaluate(model: TrainedModel | Ensemble, dataset: Dataset) -> Evaluation:
    """Evaluates a model on the test images; raises a UserError if their classes or shapes are not the model's."""
    if (dataset.num_classes, dataset.image_shape) != (model.num_classes, model.image_shape):
        shape, expected = ("x".join(map(str, either.image_shape)) for either in (dataset, model))
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} classes and images of {shape}: expected {model.num_classes} and "
            f"{expected}, as in the training data"
        )
    images, labels = dataset.split("test")
    logits = model.logits(images)
    scores = compute_scores(logits, labels)

    def accuracy(model: TrainedModel | Ensemble, images: np.ndarray) -> Accuracy:
        return Accuracy.from_counts(int((model.logits(images).argmax(-1) == labels).sum()), len(labels))

    alone = [accuracy(member, images) for member in model.members]
    correct = logits.argmax(-1) == labels
    by_writers = {
        group: Accuracy.from_counts(int(correct[written].sum()), int(written.sum()))
        for group, written in dataset.groups("test").items()
    }
    hidden = not console.is_terminal
    robustness = {
        corruption.name: {strength: accuracy(model, corruption(images, strength)) for strength in corruption.strengths}
        for corruption in track(CORRUPTIONS, "corrupted images", console=console, transient=True, disable=hidden)
    }
    predicted, probability = logits.argmax(-1), special.softmax(logits, axis=-1).max(-1)
    wrong = np.flatnonzero(predicted != labels).tolist()
    mistakes = [Mistake(i, int(labels[i]), int(predicted[i]), float(probability[i])) for i in wrong]
    mistakes.sort(key=lambda mistake: -mistake.probability)
    return Evaluation(scores, alone, _final_accuracies(model, dataset), by_writers, robustness, mistakes)


def _final_accuracies(model: TrainedModel | Ensemble, dataset: Dataset) -> list[Accuracy]:
    """Returns the test accuracy of each member's final epoch, if all selected an epoch on these very images."""
    found, count = [], len(dataset.arrays.test_labels)
    for member in model.members:
        trained_on = member.run["dataset"]
        same_images = (trained_on["sha256"], trained_on["test_examples"]) == (dataset.sha256, count)
        if member.selected_by != "test/accuracy" or not same_images or "test/accuracy" not in member.final:
            return []
        found.append(Accuracy.from_counts(round(count * member.final["test/accuracy"]), count))
    return found

"""Evaluates a model on the test images of a data set, clean and corrupted."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.progress import track
from scipy import special, stats
from sklearn import metrics

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.data import Dataset
from digits_jax.errors import UserError
from digits_jax.runs.console import console
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.runs.workdir import describe_dataset

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
    """Scores on N labeled images."""

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
    classes = range(logits.shape[1])
    precision, recall, _, counts = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    return Scores(
        accuracy=Accuracy.from_counts(int(correct.sum()), len(labels)),
        loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        expected_calibration_error=sum(
            b.num_images / len(labels) * abs(b.accuracy.fraction - b.confidence) for b in bins
        ),
        classes=[ClassScores(*row) for row in zip(precision.tolist(), recall.tolist(), counts.tolist(), strict=True)],
        confusion=metrics.confusion_matrix(labels, predicted, labels=classes).tolist(),
        bins=bins,
    )


@dataclass(frozen=True)
class Mistake:
    """A misclassified test image."""

    image: int  # index in the test set
    label: int
    taken_for: int  # the predicted class
    probability: float  # of the predicted class


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    scores: Scores
    alone: list[Accuracy]  # of each member of an ensemble; of a single model, its own
    robustness: dict[str, dict[float, Accuracy]]  # by corruption and strength
    mistakes: list[Mistake]  # in decreasing order of probability


def evaluate(model: TrainedModel | Ensemble, dataset: Dataset) -> Evaluation:
    """Evaluates a model on the test images; on a terminal, shows a progress bar.

    Raises:
      UserError: the data set has other classes or image shapes than the model.
    """
    if (dataset.num_classes, dataset.image_shape) != (model.num_classes, model.image_shape):
        shape, expected = ("x".join(map(str, either.image_shape)) for either in (dataset, model))
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} classes and images of {shape}: expected {model.num_classes} and "
            f"{expected}, as in the training data"
        )
    images, labels = dataset.split("test")

    def accuracy(model: TrainedModel | Ensemble, images: np.ndarray) -> Accuracy:
        return Accuracy.from_counts(int((model.logits(images).argmax(-1) == labels).sum()), len(labels))

    logits = model.logits(images)
    scores = compute_scores(logits, labels)
    alone = [scores.accuracy]
    if len(model.members) > 1:
        alone = [accuracy(member, images) for member in model.members]
    robustness: dict[str, dict[float, Accuracy]] = {corruption.name: {} for corruption in CORRUPTIONS}
    cases = [(corruption, strength) for corruption in CORRUPTIONS for strength in corruption.strengths]
    hidden = not console.is_terminal
    for corruption, strength in track(cases, "corrupted images", console=console, transient=True, disable=hidden):
        robustness[corruption.name][strength] = accuracy(model, corruption(images, strength))
    return Evaluation(scores, alone, robustness, _mistakes(logits, labels))


def _mistakes(logits: np.ndarray, labels: np.ndarray) -> list[Mistake]:
    predicted, probability = logits.argmax(-1), special.softmax(logits, axis=-1).max(-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probability[wrong], kind="stable")]
    return [Mistake(i, int(labels[i]), int(predicted[i]), float(probability[i])) for i in wrong.tolist()]


def to_json(evaluation: Evaluation, model: TrainedModel | Ensemble, dataset: Dataset) -> dict[str, Any]:
    """Returns the content of `evaluation.json`: all numbers, and nothing that identifies the machine."""
    return {
        "models": [
            {"config_hash": member.run["config_hash"], "step": member.step, "accuracy": accuracy.fraction}
            for member, accuracy in zip(model.members, evaluation.alone, strict=True)
        ],
        "views": model.config.test_time_augmentation,
        "dataset": describe_dataset(dataset),
        **asdict(evaluation.scores),
        "robustness": {
            name: [{"strength": strength, **asdict(accuracy)} for strength, accuracy in by_strength.items()]
            for name, by_strength in evaluation.robustness.items()
        },
        "mistakes": [asdict(mistake) for mistake in evaluation.mistakes],
    }

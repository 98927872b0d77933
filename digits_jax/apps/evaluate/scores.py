"""Scores of a classifier from its logits: accuracy, loss, calibration, per-class scores and confusion matrix."""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from sklearn import metrics

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

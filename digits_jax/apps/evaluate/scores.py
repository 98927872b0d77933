"""How well a classifier does, from its logits: accuracy, loss, calibration, and what it takes for what."""

from typing import NamedTuple

import numpy as np
from scipy import special, stats
from sklearn import metrics

NUM_BINS = 15  # of Guo et al. 2017


class Share(NamedTuple):
    """A fraction that was counted, with its 95 % interval."""

    fraction: float
    low: float
    high: float


class Bin(NamedTuple):
    """The images whose most probable class has a probability in (low, high]."""

    low: float
    high: float
    num_images: int
    confidence: float  # mean probability of the most probable class; nan where there are none
    accuracy: Share


class ClassScore(NamedTuple):
    """One class against all others."""

    precision: float  # share of the images taken for it that are of it; nan where there are none
    recall: float  # share of the images of it that are taken for it; nan where there are none
    num_images: int  # of it


class Scores(NamedTuple):
    """What N labelled images say of a classifier."""

    accuracy: Share
    loss: float  # nats: mean cross-entropy
    ece: float  # expected calibration error, see `score`
    bins: list[Bin]
    classes: list[ClassScore]
    confusion: list[list[int]]  # [true class][class it was taken for]


def share(correct: int, count: int) -> Share:
    """`correct` of `count`, with Wilson's score interval (Wilson 1927); nan of none."""
    if count == 0:
        return Share(np.nan, np.nan, np.nan)
    interval = stats.binomtest(correct, count).proportion_ci(confidence_level=0.95, method="wilson")
    return Share(correct / count, float(interval.low), float(interval.high))


def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores `[N, C]` logits against `[N]` labels.

    The expected calibration error is that of Guo et al. 2017 ("On Calibration of Modern Neural Networks", equation 3):
    with B_m the images whose confidence, the probability of the most probable class, is in the m-th of 15 bins of equal
    width, the sum over m of |B_m| / N |accuracy(B_m) - confidence(B_m)|.
    """
    logits = logits.astype(np.float64)
    log_probabilities = special.log_softmax(logits, axis=-1)
    predicted = logits.argmax(-1)
    right = predicted == labels
    confidence = np.exp(log_probabilities.max(-1))
    bins = _bins(confidence, right)
    classes = range(logits.shape[1])
    precision, recall, _, count = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    return Scores(
        accuracy=share(int(right.sum()), len(labels)),
        loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        ece=sum(b.num_images / len(labels) * abs(b.accuracy.fraction - b.confidence) for b in bins if b.num_images),
        bins=bins,
        classes=[ClassScore(*row) for row in zip(precision.tolist(), recall.tolist(), count.tolist(), strict=True)],
        confusion=metrics.confusion_matrix(labels, predicted, labels=classes).tolist(),
    )


def _bins(confidence: np.ndarray, right: np.ndarray) -> list[Bin]:
    number = np.clip(np.ceil(confidence * NUM_BINS) - 1, 0, NUM_BINS - 1)
    bins = []
    for m in range(NUM_BINS):
        inside = number == m
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else np.nan
        accuracy = share(int(right[inside].sum()), count)
        bins.append(Bin(m / NUM_BINS, (m + 1) / NUM_BINS, count, mean, accuracy))
    return bins

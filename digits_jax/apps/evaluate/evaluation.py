"""Evaluates a model on the test images of a data set, clean and corrupted."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.progress import track
from scipy import special

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.apps.evaluate.scores import Accuracy, Scores, compute_scores
from digits_jax.data.datasets import Dataset
from digits_jax.errors import UserError
from digits_jax.runs.console import console
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.runs.workdir import describe_dataset


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
    robustness: dict[str, list[Accuracy]]  # by corruption, at each of its strengths
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
    is_single = len(model.members) == 1
    alone = [scores.accuracy] if is_single else [accuracy(member, images) for member in model.members]
    robustness: dict[str, list[Accuracy]] = {corruption.name: [] for corruption in CORRUPTIONS}
    cases = [(corruption, strength) for corruption in CORRUPTIONS for strength in corruption.strengths]
    progress_bar = {"console": console, "transient": True, "disable": not console.is_terminal}
    for corruption, strength in track(cases, "corrupted images", **progress_bar):
        robustness[corruption.name].append(accuracy(model, corruption(images, strength)))
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
        "views": model.config.test_views,
        "dataset": describe_dataset(dataset),
        **asdict(evaluation.scores),
        "robustness": {
            c.name: [
                {"strength": strength, **asdict(accuracy)}
                for strength, accuracy in zip(c.strengths, evaluation.robustness[c.name], strict=True)
            ]
            for c in CORRUPTIONS
        },
        "mistakes": [asdict(mistake) for mistake in evaluation.mistakes],
    }

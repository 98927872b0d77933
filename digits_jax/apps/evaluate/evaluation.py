"""A model on the test images of a data set, as they are and spoilt."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS, Corruption
from digits_jax.apps.evaluate.scores import Scores, Share, score, share
from digits_jax.data import Dataset
from digits_jax.errors import UserError
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.runs.workdir import describe_dataset

# By the name of a corruption, the accuracy at each of its strengths.
Robustness = dict[str, list[Share]]
Cases = Iterable[tuple[Corruption, float]]


class Mistake(NamedTuple):
    """A test image that was taken for another class than its own."""

    image: int  # its index
    label: int
    taken_for: int
    probability: float  # of the class that it was taken for


class Evaluation(NamedTuple):
    """What was found."""

    scores: Scores
    alone: list[Share]  # the accuracy of each model by itself
    robustness: Robustness
    mistakes: list[Mistake]  # those it is most sure of first


def evaluate(
    model: TrainedModel | Ensemble, dataset: Dataset, *, watch: Callable[[Cases], Cases] = lambda cases: cases
) -> Evaluation:
    """Scores a model on the test images.

    Args:
      model: of as many classes as the data, and for images of their shape.
      dataset: its test images are all that is looked at.
      watch: is put around what takes a while, the corruptions with their strengths; a progress bar.

    Raises:
      UserError: the model does not fit the data.
    """
    if dataset.num_classes != model.num_classes or dataset.image_shape != model.image_shape:
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} classes and images of {_by(dataset.image_shape)}: expected "
            f"{model.num_classes} and {_by(model.image_shape)}, as the model was trained on"
        )
    images, labels = dataset.split("test")

    def accuracy(answering: TrainedModel | Ensemble, images: np.ndarray) -> Share:
        right = answering.logits(images).argmax(-1) == labels
        return share(int(right.sum()), len(labels))

    logits = model.logits(images)
    scores = score(logits, labels)
    is_alone = len(model.members) == 1
    alone = [scores.accuracy] if is_alone else [accuracy(member, images) for member in model.members]
    robustness: Robustness = {corruption.name: [] for corruption in CORRUPTIONS}
    for corruption, strength in watch([(c, strength) for c in CORRUPTIONS for strength in c.strengths]):
        robustness[corruption.name].append(accuracy(model, corruption(images, strength)))
    return Evaluation(scores, alone, robustness, _mistakes(logits, labels))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _mistakes(logits: np.ndarray, labels: np.ndarray) -> list[Mistake]:
    predicted, probability = logits.argmax(-1), special.softmax(logits, axis=-1).max(-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probability[wrong], kind="stable")]
    return [Mistake(i, int(labels[i]), int(predicted[i]), float(probability[i])) for i in wrong.tolist()]


def to_json(evaluation: Evaluation, model: TrainedModel | Ensemble, dataset: Dataset) -> dict[str, Any]:
    """All figures, as they are written to `evaluation.json`; nothing that names the machine."""
    scores = evaluation.scores
    return {
        "models": [
            {"config_hash": m.run["config_hash"], "step": m.step, "accuracy": alone.fraction}
            for m, alone in zip(model.members, evaluation.alone, strict=True)
        ],
        "views": model.config.test_views,
        "dataset": describe_dataset(dataset),
        "accuracy": scores.accuracy._asdict(),
        "loss": scores.loss,
        "expected_calibration_error": scores.ece,
        "classes": [c._asdict() for c in scores.classes],
        "confusion": scores.confusion,
        "bins": [b._asdict() | {"accuracy": b.accuracy._asdict()} for b in scores.bins if b.num_images],
        "robustness": {
            c.name: [
                {"strength": strength, **accuracy._asdict()}
                for strength, accuracy in zip(c.strengths, evaluation.robustness[c.name], strict=True)
            ]
            for c in CORRUPTIONS
        },
        "mistakes": [m._asdict() for m in evaluation.mistakes],
    }

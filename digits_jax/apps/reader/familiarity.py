"""Whether an image is to a network as digits are, or as something else.

A network names one of ten digits for anything, and often with confidence. What the last layer is given for an image
says more: it lies close to what it is given for training images (nearest neighbours, Sun, Ming, Zhu and Li 2022), and
closer to them than to what it is given for letters, which are drawn for this (as examples of what to refuse:
Hendrycks, Mazeika and Dietterich 2019; the letters that it is tried on are others, see docs/predict.md).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

from digits_jax import ops
from digits_jax.runs.trained_model import TrainedModel

_FALSE_WARNINGS = 0.01  # share of training images that are beyond each of the two limits
_DIMENSIONS = 64  # that features are projected on
_NEIGHBOUR = 3  # how many training images have to be as near


class Familiarity(NamedTuple):
    """What the features `[F]` of an image are compared with.

    Attributes:
      mean: float32 `[F]`, of the training images' features.
      axes: float32 `[F, P]`: of the largest variance.
      digits: float32 `[N, P]`: directions, in these axes and from the mean, of training images.
      letters: float32 `[M, P]`: the same of letters.
      limits: float32 `[2]`: of the distance to the nearest digits, and of its ratio to that to the nearest letter.
    """

    mean: np.ndarray
    axes: np.ndarray
    digits: np.ndarray
    letters: np.ndarray
    limits: np.ndarray

    def is_strange(self, features: np.ndarray) -> np.ndarray:
        """bool `[B]`, of features `[B, F]`: they are beyond a limit."""
        return np.any(self.scores(features) > self.limits, axis=1)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """What the limits are of, `[B, 2]`."""
        directions = _directions(features, self.mean, self.axes)
        to_digits = _distances(directions, self.digits, _NEIGHBOUR)
        to_letters = _distances(directions, self.letters, 1)
        return np.stack([to_digits, to_digits / (to_letters + 1e-3)], axis=1)


def fit(digits: np.ndarray, letters: np.ndarray) -> Familiarity:
    """Learns from the features of training images `[N, F]`, in no particular order, and of letters `[M, F]`.

    Half of the digits are what others are compared with, and the other half set the limits.
    """
    reference, others = digits[::2], digits[1::2]
    mean = reference.mean(axis=0)
    covariance = np.cov(np.concatenate([reference, letters]).T)
    axes = np.linalg.eigh(covariance)[1][:, -_DIMENSIONS:].astype(np.float32)
    known, others_known = (_directions(features, mean, axes) for features in (reference, letters))
    without_limits = Familiarity(mean, axes, known, others_known, np.full(2, np.inf, np.float32))
    return without_limits._replace(limits=np.quantile(without_limits.scores(others), 1 - _FALSE_WARNINGS, axis=0))


def _directions(features: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    projected = (features - mean) @ axes
    return projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12)


def _distances(directions: np.ndarray, known: np.ndarray, neighbour: int) -> np.ndarray:
    """To the nearest but `neighbour - 1` of those that are known: `[B]`."""
    found = [np.zeros(0, np.float32)]
    for part in np.split(directions, range(1000, len(directions), 1000)):
        cosines = np.partition(part @ known.T, -neighbour, axis=1)[:, -neighbour]
        found.append(np.sqrt(np.maximum(2 - 2 * cosines, 0)))
    return np.concatenate(found)


def with_features(model: TrainedModel, *, part_size: int = 64) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of images, uint8 `[B, H, W]`, to logits `[B, num_classes]` and the last layer's input `[B, F]`.

    Args:
      model: whose.
      part_size: images in a compiled call, of which there is one.
    """
    logits_of = model.function(test_time_augmentation="none")  # the features are those of one view

    @ops.jit
    def answer(variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = []

        def note(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> jax.Array:
            if isinstance(context.module, nn.Dense):
                inputs.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            logits = logits_of(variables, images)
        return logits, inputs[-1]

    variables = jax.device_put(model.variables)

    def answers(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(images)
        padded = np.zeros((-(-max(count, 1) // part_size) * part_size, *model.image_shape), np.uint8)
        padded[:count] = images.reshape(-1, *model.image_shape)
        parts = [answer(variables, part) for part in np.split(padded, len(padded) // part_size)]
        logits, features = (np.concatenate([np.asarray(part[i]) for part in parts])[:count] for i in (0, 1))
        return logits, features

    return answers

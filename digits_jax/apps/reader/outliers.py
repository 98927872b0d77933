"""Detects out-of-distribution images by the inputs of a model's last layer, its features.

Those of a digit are close to those of training images (nearest neighbors: Sun, Ming, Zhu and Li 2022), and closer to
them than to those of drawn letters, which serve as known outliers (outlier exposure: Hendrycks, Mazeika and Dietterich
2019). docs/predict.md tests on other letters.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

from digits_jax import ops
from digits_jax.runs.trained_model import TrainedModel

_FALSE_POSITIVES = 0.01  # fraction of held-out training images beyond each of the two limits
_DIMENSIONS = 64  # of the projected features
_NEIGHBOR = 3  # the distance to the digits is that to the third nearest


class OutlierDetector(NamedTuple):
    """Features of digits and letters, projected to unit vectors, and the limits beyond which an image is an outlier."""

    mean: np.ndarray  # [F]: of the digits' features
    axes: np.ndarray  # [F, P]: the directions of the largest variance
    digits: np.ndarray  # [N, P]
    letters: np.ndarray  # [M, P]
    limits: np.ndarray  # [2]: of `distances`

    def is_outlier(self, features: np.ndarray) -> np.ndarray:
        """Returns bool `[B]` for features `[B, F]`: whether one of the distances exceeds its limit."""
        return np.any(self.distances(features) > self.limits, axis=1)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Returns `[B, 2]`: the distance to the digits, and its ratio to the distance to the nearest letter."""
        directions = _project(features, self.mean, self.axes)
        to_digits = _nearest(directions, self.digits, _NEIGHBOR)
        to_letters = _nearest(directions, self.letters, 1)
        return np.stack([to_digits, to_digits / (to_letters + 1e-3)], axis=1)


def fit_detector(digits: np.ndarray, letters: np.ndarray, *, num_kept: int | None = None) -> OutlierDetector:
    """Fits a detector to features of training images `[N, F]`, half of which set the limits, and letters `[M, F]`.

    It keeps the other half, or the first `num_kept` of that.
    """
    reference, held_out = digits[::2][:num_kept], digits[1::2]
    mean = reference.mean(axis=0)
    covariance = np.cov(np.concatenate([reference, letters]).T)
    axes = np.linalg.eigh(covariance)[1][:, -_DIMENSIONS:].astype(np.float32)
    known, outliers = (_project(features, mean, axes) for features in (reference, letters))
    detector = OutlierDetector(mean, axes, known, outliers, limits=np.full(2, np.inf, np.float32))
    return detector._replace(limits=np.quantile(detector.distances(held_out), 1 - _FALSE_POSITIVES, axis=0))


def _project(features: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    projected = (features - mean) @ axes
    return projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12)


def _nearest(directions: np.ndarray, reference: np.ndarray, neighbor: int) -> np.ndarray:
    """Returns `[B]`: the distance to the `neighbor`-th nearest of the reference's unit vectors."""
    distances = [np.zeros(0, np.float32)]
    for part in np.split(directions, range(1000, len(directions), 1000)):
        cosines = np.partition(part @ reference.T, -neighbor, axis=1)[:, -neighbor]
        distances.append(np.sqrt(np.maximum(2 - 2 * cosines, 0)))
    return np.concatenate(distances)


def with_features(
    model: TrainedModel, *, kernels: str = "auto", part_size: int = 64
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function from images, uint8 `[B, H, W]`, to logits `[B, num_classes]` and features `[B, F]`.

    `kernels` is as for `ops.using`, `part_size` the number of images per compiled call.
    """
    logits_of = model.function(test_time_augmentation="none")  # features are those of one image

    @ops.jit
    @ops.using(kernels)
    def forward(variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = []

        def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> jax.Array:
            if isinstance(context.module, nn.Dense):
                inputs.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            logits = logits_of(variables, images)
        return logits, inputs[-1]

    variables = jax.device_put(model.variables)

    def logits_and_features(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = np.zeros((max(-(-len(images) // part_size), 1), part_size, *model.image_shape), np.uint8)
        parts.reshape(-1, *images.shape[1:])[: len(images)] = images
        logits, features = zip(*(forward(variables, part) for part in parts), strict=True)
        return np.concatenate(logits)[: len(images)], np.concatenate(features)[: len(images)]

    return logits_and_features

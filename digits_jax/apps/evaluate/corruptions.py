"""Corruptions of test images: shift, rotation, noise and blur, each at five strengths.

The random direction of a shift, sense of a rotation and pattern of the noise depend on an image's index only. They are
the same at every strength and in every call.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy import ndimage

from digits_jax.augment import warp


class Corruption(NamedTuple):
    """A corruption and the strengths that it is applied at."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # uint8 [N, H, W, C] to real numbers

    def __call__(self, images: np.ndarray, strength: float) -> np.ndarray:
        """Returns corrupted uint8 images `[N, H, W, C]`."""
        corrupted = self.apply(images, strength, np.random.default_rng(0))
        return np.rint(corrupted).clip(0, 255).astype(np.uint8)


@jax.jit
def _warp(images: jax.Array, matrices: jax.Array) -> jax.Array:
    return warp(images, matrices, interpolation="bilinear")


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

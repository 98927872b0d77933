"""What may happen to a picture before a model sees it: shift, rotation, noise and blur, each at five strengths.

What is drawn for an image depends on its index only: the direction of a shift, the sense of a rotation, the pattern of
the noise. From strength to strength an image goes further in the same direction, and every call does the same.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from digits_jax.augment import warp


class Corruption(NamedTuple):
    """One way to spoil images, and how far."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # uint8 [N, H, W, C] to real numbers

    def __call__(self, images: np.ndarray, strength: float) -> np.ndarray:
        """uint8 images `[N, H, W, C]`, spoilt."""
        spoilt = self.apply(images, strength, np.random.default_rng(0))
        return np.rint(spoilt).clip(0, 255).astype(np.uint8)


def _warp(images: np.ndarray, linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Reads a pixel at o from linear @ o + offset, `[N, 2, 2]` and `[N, 2]`; edges are repeated."""
    matrices = jnp.asarray(np.concatenate([linear, offset[..., None]], axis=-1), jnp.float32)
    return np.asarray(_bilinear(jnp.asarray(images), matrices))


@jax.jit
def _bilinear(images: jax.Array, matrices: jax.Array) -> jax.Array:
    return warp(images, matrices, interpolation="bilinear")


def _shift(images: np.ndarray, pixels: float, random: np.random.Generator) -> np.ndarray:
    angle = random.uniform(0, 2 * np.pi, len(images))
    offset = pixels * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return _warp(images, np.broadcast_to(np.eye(2), (len(images), 2, 2)), offset)


def _rotate(images: np.ndarray, degrees: float, random: np.random.Generator) -> np.ndarray:
    angle = np.deg2rad(degrees) * random.choice([-1, 1], len(images))
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    center = (np.array(images.shape[1:3]) - 1) / 2
    return _warp(images, linear, center - linear @ center)


def _noise(images: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return images + deviation * random.standard_normal(images.shape, np.float32)


def _blur(images: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(images.astype(np.float32), (0, deviation, deviation, 0), mode="nearest")


CORRUPTIONS = (
    Corruption("shift", "pixels, in any direction", (1, 2, 3, 4, 5), _shift),
    Corruption("rotation", "degrees, to either side", (10, 20, 30, 40, 50), _rotate),
    Corruption("noise", "standard deviation in grey levels", (16, 32, 48, 64, 96), _noise),
    Corruption("blur", "standard deviation in pixels", (0.5, 1, 1.25, 1.5, 2), _blur),
)

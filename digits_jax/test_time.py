"""Test-time augmentation: predictions averaged over versions of an image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def shifts(images: jax.Array) -> list[jax.Array]:
    """Returns images `[B, H, W, C]` as they are, and shifted by a pixel up, down, left and right.

    What is shifted in is 0.
    """
    steps, zero = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)), jnp.zeros((), images.dtype)  # down and right
    return [lax.pad(images, zero, ((0, 0, 0), (y, -y, 0), (x, -x, 0), (0, 0, 0))) for y, x in steps]


TEST_TIME_AUGMENTATIONS: dict[str, Callable[[jax.Array], list[jax.Array]] | None] = {"none": None, "shifts": shifts}


def average_over_versions(apply: Callable[[jax.Array], Any], name: str) -> Callable[[jax.Array], jax.Array]:
    """Averages a model's predictions over the augmented versions of an image.

    Args:
      apply: takes images `[B, H, W, C]` and returns logits `[B, num_classes]`.
      name: a key of `TEST_TIME_AUGMENTATIONS`.

    Returns:
      A function from images to logits whose softmax is the mean of the softmaxes over the versions.
    """
    versions = TEST_TIME_AUGMENTATIONS[name]
    if versions is None:
        return apply

    def averaged(images: jax.Array) -> jax.Array:
        log_probs = lax.map(lambda version: nn.log_softmax(apply(version)), jnp.stack(versions(images)))
        return nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))

    return averaged

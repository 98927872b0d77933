"""Test-time augmentation: the answer for an image is the mean of the answers for several views of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def shifts(images: jax.Array) -> jax.Array:
    """Images `[B, H, W, C]` as they are, and moved by a pixel up, down, left and right: `[5, B, H, W, C]`.

    What moves in is 0.
    """
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))
    return jnp.stack([padded[:, top : top + height, left : left + width] for top, left in corners])


VIEWS: dict[str, Callable[[jax.Array], jax.Array] | None] = {"one": None, "shifts": shifts}


def over_views(logits_of: Callable[[jax.Array], Any], name: str) -> Callable[[jax.Array], jax.Array]:
    """The function of images `[B, H, W, C]` to logits `[B, num_classes]` whose softmax is the mean over the views'."""
    views = VIEWS[name]
    if views is None:
        return logits_of  # to the bit

    def logits_of_mean(images: jax.Array) -> jax.Array:
        of_each = lax.map(lambda view: nn.log_softmax(logits_of(view)), views(images))
        return nn.logsumexp(of_each, axis=0) - jnp.log(len(of_each))

    return logits_of_mean

"""Layers without parameters that models are built of."""

import jax
import jax.numpy as jnp
from jax import lax


def normalize(images: jax.Array, mean: float, std: float) -> jax.Array:
    """Raw pixels in [0, 255], of any type, to float32 of mean 0 and standard deviation 1."""
    return (images.astype(jnp.float32) - mean) / std


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """The maximum over 2x2 windows, `[B, H, W, C]` to `[B, H // 2, W // 2, C]`; an odd last row or column is left out.

    Written as a maximum of four strided slices: the gradient of `nn.max_pool` (select-and-scatter) runs on one thread
    on a CPU, 12.4 ms on [64, 24, 24, 32] against 0.5 ms for this one, and has no deterministic form on a GPU. Among
    equal maxima the gradient is shared instead of given to the first.
    """
    batch, height, width, channels = x.shape
    stop = (batch, height // 2 * 2, width // 2 * 2, channels)
    # Not x[:, i::2, j::2], which becomes a gather where the batch's size is left open (apps/exports.py).
    corners = [lax.slice(x, (0, i, j, 0), stop, (1, 2, 2, 1)) for i in (0, 1) for j in (0, 1)]
    return jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))

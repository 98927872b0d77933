"""Flax layers on the selected kernels, and the max-pool."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from digits_jax.ops.conv import conv_general_dilated
from digits_jax.ops.dense import dot_general

# Not subclasses: parameters keep the names that Flax derives from the class, `Conv_0` and `Dense_0`.
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
Dense = functools.partial(nn.Dense, dot_general=dot_general)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Returns the maximum over 2x2 windows, `[B, H, W, C]` to `[B, H // 2, W // 2, C]`, without an odd row or column.

    Written as a maximum of four strided slices: the gradient of `nn.max_pool` (select-and-scatter) runs on one thread
    on a CPU, 12.4 ms on [64, 24, 24, 32] against 0.5 ms for this one, and has no deterministic form on a GPU. The
    gradient is shared among equal maxima instead of given to the first.
    """
    batch, height, width, channels = x.shape
    stop = (batch, height // 2 * 2, width // 2 * 2, channels)
    # Not x[:, i::2, j::2], which becomes a gather where the batch size is symbolic (apps/export/formats.py).
    corners = [lax.slice(x, (0, i, j, 0), stop, (1, 2, 2, 1)) for i in (0, 1) for j in (0, 1)]
    return jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))

"""Flax layers on the selected kernels, the product of a dense layer with few outputs, and the max-pool.

XLA:CPU multiplies slowly where a matrix has fewer columns than a vector register has elements: the gradient x^T @ dy of
a kernel `[784, 10]` takes 40 us of a linear model's step of 90, at 25 GFLOP/s. Its transpose dy^T @ x, with dy^T padded
with zeros to 16 rows, takes 23: its rows are 784 long.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from digits_jax.ops.conv import conv_general_dilated
from digits_jax.ops.kernels import reverse_only, selected

_VECTOR = 16  # float32 in a register of AVX-512


def dot_general(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **kwargs: Any) -> jax.Array:
    """Computes `lax.dot_general` with the selected kernels, see `using`.

    Theirs is a faster gradient for the product of `[B, C]` with a kernel `[C, O]` of few columns; others are left to
    `lax`.
    """
    few = rhs.ndim == 2 and rhs.shape[1] < _VECTOR
    if few and selected() != "lax" and lhs.ndim == 2 and dimension_numbers == (((1,), (0,)), ((), ())):
        return _few_columns(reverse_only(lhs), reverse_only(rhs))
    return lax.dot_general(lhs, rhs, dimension_numbers, **kwargs)


@jax.custom_vjp
def _few_columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    outputs = dy.shape[1]
    # The barrier keeps XLA from transposing the product back.
    rows = lax.optimization_barrier(jnp.pad(dy, ((0, 0), (0, _VECTOR - outputs))).T)
    return dy @ kernel.T, (rows @ x)[:outputs].T


_few_columns.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _backward)

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

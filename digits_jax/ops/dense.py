"""The matrix product of a dense layer with few outputs, for CPUs.

XLA:CPU multiplies slowly where a matrix has fewer columns than a vector register: the gradient x^T @ dy of a kernel
`[784, 10]` takes 40 us of a linear model's step of 90, at 25 GFLOP/s. Its transpose dy^T @ x, with dy^T filled up with
zeros to 16 rows, takes 23: its rows are 784 long.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from digits_jax.ops.kernels import selected

_VECTOR = 16  # float32 in a register of AVX-512


def dot_general(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **kwargs: Any) -> jax.Array:
    """`lax.dot_general`; the product of two matrices with few columns has a faster gradient.

    Args:
      lhs: `[B, C]`.
      rhs: kernel `[C, O]`.
      dimension_numbers, kwargs: as for `lax.dot_general`, to which other products are left.
    """
    few = rhs.ndim == 2 and rhs.shape[1] < _VECTOR
    if few and selected() != "lax" and lhs.ndim == 2 and dimension_numbers == (((1,), (0,)), ((), ())):
        return _few_columns(lhs, rhs)
    return lax.dot_general(lhs, rhs, dimension_numbers, **kwargs)


@jax.custom_vjp
def _few_columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    outputs = dy.shape[1]
    # The barrier keeps XLA from turning the product round again.
    rows = lax.optimization_barrier(jnp.pad(dy, ((0, 0), (0, _VECTOR - outputs))).T)
    return dy @ kernel.T, (rows @ x)[:outputs].T


_few_columns.defvjp(_forward, _backward)

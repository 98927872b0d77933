"""Flax layers on the selected kernels, batch normalization in the next layer, a dense layer of few outputs, max-pool.

Batch normalization is an affine map of each channel, `a * s + t`. An unpadded convolution takes it into its kernel and
its bias, conv(a s + t, W) = conv(a, s W) + sum(t W), and a max-pool commutes with it. So it costs the statistics of the
batch, but no pass over the activations; backwards, the gradients of s and t follow from the kernel's, where the usual
form takes two sums over the activations and another pass. `BatchNorm` therefore returns an `Affine`.

XLA:CPU multiplies slowly where a matrix has fewer columns than a vector register has elements: the gradient x^T @ dy of
a kernel `[784, 10]` takes 40 us of a linear model's step of 90, at 25 GFLOP/s. Its transpose dy^T @ x, with dy^T padded
with zeros to 16 rows, takes 23: its rows are 784 long.
"""

import functools
from typing import Any, NamedTuple

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

# Not a subclass: parameters keep the name that Flax derives from the class, `Dense_0`.
Dense = functools.partial(nn.Dense, dot_general=dot_general)


class Affine(NamedTuple):
    """Activations `array * scale + shift`; the layer that takes them computes them, or takes the map into its own."""

    array: jax.Array  # [..., C]
    scale: jax.Array  # [C]
    shift: jax.Array  # [C]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the activations."""
        return self.array.shape


def compute(x: jax.Array | Affine) -> jax.Array:
    """Returns the activations as an array."""
    if not isinstance(x, Affine):
        return x
    return (x.array * _per_channel(x.scale, x) + _per_channel(x.shift, x)).astype(x.array.dtype)


def _per_channel(values: jax.Array, x: jax.Array | Affine) -> jax.Array:
    """Reshapes `[C]` to broadcast against activations `[..., C]`."""
    return values.reshape((1,) * (len(x.shape) - 1) + (-1,))


class BatchNorm(nn.BatchNorm):
    """Normalizes channels by the mean and variance of the batch, or by their running averages; returns an `Affine`.

    Of the fields of Flax's layer it has `use_running_average`, `momentum` and `epsilon`; its variables are the same.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> Affine:  # type: ignore[override]
        """Returns the normalized activations `[..., C]`, and updates the running averages where they are not used."""
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            axes, values = tuple(range(x.ndim - 1)), x.astype(jnp.float32)
            mean = values.mean(axes)
            var = jnp.maximum(jnp.square(values).mean(axes) - jnp.square(mean), 0)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        scale = scale * lax.rsqrt(var + self.epsilon)
        return Affine(x, scale, bias - mean * scale)


class Conv(nn.Module):
    """An unpadded convolution with a bias; its variables are those of `nn.Conv`."""

    features: int
    kernel_size: tuple[int, int]
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | Affine) -> jax.Array:
        """Convolves `[B, H, W, C]` to `[B, H - kh + 1, W - kw + 1, features]`."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if isinstance(x, Affine):
            bias += jnp.einsum("hwco,c->o", kernel, x.shift)
            kernel *= x.scale.reshape(1, 1, -1, 1)
            x = x.array
        numbers = ("NHWC", "HWIO", "NHWC")
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        return y + _per_channel(bias.astype(self.dtype), y)


def max_pool_2x2(x: Any) -> Any:
    """Returns the maximum over 2x2 windows, `[B, H, W, C]` to `[B, H // 2, W // 2, C]`, without an odd row or column.

    Written as a maximum of four strided slices: the gradient of `nn.max_pool` (select-and-scatter) runs on one thread
    on a CPU, 12.4 ms on [64, 24, 24, 32] against 0.5 ms for this one, and has no deterministic form on a GPU. The
    gradient is shared among equal maxima instead of given to the first. Of an `Affine`, an `Affine`.
    """
    if isinstance(x, Affine):  # the maximum of a s + t is |s| times that of +-a, plus t
        sign = jnp.where(x.scale < 0, -1, 1)
        signed = x.array * _per_channel(sign.astype(x.array.dtype), x)
        return Affine(max_pool_2x2(signed), x.scale * sign, x.shift)
    batch, height, width, channels = x.shape
    stop = (batch, height // 2 * 2, width // 2 * 2, channels)
    # Not x[:, i::2, j::2], which becomes a gather where the batch size is symbolic (apps/export/formats.py).
    corners = [lax.slice(x, (0, i, j, 0), stop, (1, 2, 2, 1)) for i in (0, 1) for j in (0, 1)]
    return jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))

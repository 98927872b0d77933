"""Unpadded convolutions with small kernels as matrix products, for CPUs.

XLA:CPU has a fast path for convolutions in a program's entry computation only: inside `lax.scan` or a while loop,
where training steps run, the gradients fall back to naive loops, 20 times slower (jax-ml/jax#12868). Matrix products
are fast anywhere. There are three forms:

- A 3x3 kernel over many channels takes Winograd's transforms (`winograd.py`) where their tiles fit.
- A first layer, over a gray or a color image, is too thin for a product: its few terms are summed pixel by pixel in
  one pass, and only the kernel's gradient is a product, of the pixels under the kernel with dy.
- The others gather rows. im2col would write all kh kw pixels under the kernel side by side, for a 3x3 kernel nine
  times the image. Gathering along the height only, and summing along the width afterwards, makes both sides of the
  product three times theirs:

    R[b, h, w, (i, c)] = x[b, h + i, w, c]                              rows under the kernel:  [B, H', W, kh C]
    P = R @ K          with K[(i, c), (j, o)] = kernel[i, j, c, o]      one product:            [B, H', W, kw O]
    y[b, h, w, o] = sum_j P[b, h, w + j, (j, o)]                        summed along the width: [B, H', W', O]

  and backwards, with dP the terms of dy put back to where the sum took them from:

    dK = R^T @ dP       dR = dP @ K^T       dx[b, h, w, c] = sum_i dR[b, h - i, w, (i, c)]
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from digits_jax.ops import winograd
from digits_jax.ops.kernels import reverse_only, selected

_CHANNELS_LAST = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))
_WINOGRAD_CHANNELS = 8  # with fewer the transforms cost more than they save
_DIRECT_TERMS = 27  # a 3x3 kernel over a color image: 3.2 ms as a sum, 7.5 by rows, on [64, 32, 32, 3] with O = 32


def conv_general_dilated(lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **kwargs: Any) -> jax.Array:
    """Computes `lax.conv_general_dilated` with the selected kernels, see `using`.

    They take a plain convolution of images `[B, H, W, C]` with a kernel `[kh, kw, C, O]` to
    `[B, H - kh + 1, W - kw + 1, O]`. Strides, padding, dilation, groups and other layouts are left to `lax`.
    """
    kernels = selected()
    plain = (
        kernels != "lax"
        and tuple(window_strides) == (1, 1)
        and (padding == "VALID" or all(tuple(p) == (0, 0) for p in padding))
        and kwargs.get("lhs_dilation") in (None, (1, 1))
        and kwargs.get("rhs_dilation") in (None, (1, 1))
        and kwargs.get("feature_group_count", 1) == 1
        and kwargs.get("batch_group_count", 1) == 1
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, kwargs.get("dimension_numbers")) == _CHANNELS_LAST
    )
    if not plain:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
    lhs, rhs = reverse_only(lhs), reverse_only(rhs)
    kh, kw, c, o = rhs.shape
    m = winograd.tile_size(lhs.shape, rhs.shape)
    if kernels == "winograd" and m and min(c, o) >= _WINOGRAD_CHANNELS and lhs.dtype == jnp.float32:
        return winograd.conv3x3(lhs, rhs, m)
    return _conv_direct(lhs, rhs) if kh * kw * c <= _DIRECT_TERMS else _conv_rows(lhs, rhs)


def _direct_forward(images: jax.Array, kernel: jax.Array) -> jax.Array:
    factors = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])
    return _sum(x[..., None] * k for x, k in zip(_pixels(images, kernel.shape), factors, strict=True))


def _direct_backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    kh, kw, channels, o = kernel.shape
    # XLA removes this in a first layer, whose images need no gradient.
    dx = [dy @ k for k in kernel.reshape(-1, o)]
    d_images = jax.linear_transpose(lambda images: _pixels(images, kernel.shape), images)(dx)[0]
    pixels = jnp.stack(_pixels(images, kernel.shape)).reshape(kh * kw * channels, -1)
    return d_images, (pixels @ dy.reshape(-1, o)).reshape(kernel.shape)


_conv_direct = jax.custom_vjp(_direct_forward)
# Not `_conv_direct` again: forward over reverse mode, as for Hessian-vector products, differentiates this one.
_conv_direct.defvjp(lambda images, kernel: (_direct_forward(images, kernel), (images, kernel)), _direct_backward)


def _pixels(images: jax.Array, kernel_shape: tuple[int, ...]) -> list[jax.Array]:
    """Returns the factors of each of the kernel's kh kw C numbers, arrays `[B, H - kh + 1, W - kw + 1]`."""
    kh, kw, channels, _ = kernel_shape
    height, width = images.shape[1] - kh + 1, images.shape[2] - kw + 1
    return [images[:, i : i + height, j : j + width, c] for i in range(kh) for j in range(kw) for c in range(channels)]


def _rows_forward(images: jax.Array, kernel: jax.Array) -> jax.Array:
    kh, kw, _, o = kernel.shape
    width = images.shape[2] - kw + 1
    products = _gather_rows(images, kh) @ _as_matrix(kernel)
    return _sum(products[:, :, j : j + width, j * o : (j + 1) * o] for j in range(kw))


def _rows_backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    kh, kw, c, o = kernel.shape
    # Each term of the sum over j returns to where its slice came from.
    d_products = jnp.concatenate([jnp.pad(dy, _pad(2, j, kw - 1 - j)) for j in range(kw)], axis=-1)
    d_rows = d_products @ _as_matrix(kernel).T
    d_images = _sum(jnp.pad(d_rows[..., i * c : (i + 1) * c], _pad(1, i, kh - 1 - i)) for i in range(kh))
    rows = _gather_rows(images, kh)
    d_matrix = rows.reshape(-1, kh * c).T @ d_products.reshape(-1, kw * o)
    return d_images, d_matrix.reshape(kh, c, kw, o).swapaxes(1, 2)


_conv_rows = jax.custom_vjp(_rows_forward)
_conv_rows.defvjp(lambda images, kernel: (_rows_forward(images, kernel), (images, kernel)), _rows_backward)


def _gather_rows(images: jax.Array, kh: int) -> jax.Array:
    """Concatenates each pixel with those of the kh - 1 rows below: `[B, H, W, C]` to `[B, H - kh + 1, W, kh C]`."""
    height = images.shape[1] - kh + 1
    return jnp.concatenate([images[:, i : i + height] for i in range(kh)], axis=-1)


def _as_matrix(kernel: jax.Array) -> jax.Array:
    """Reshapes a kernel `[kh, kw, C, O]` to `[kh C, kw O]`."""
    kh, kw, c, o = kernel.shape
    return kernel.swapaxes(1, 2).reshape(kh * c, kw * o)


def _pad(axis: int, before: int, after: int) -> list[tuple[int, int]]:
    return [(before, after) if i == axis else (0, 0) for i in range(4)]


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)

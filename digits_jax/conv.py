"""Small-kernel convolution as matrix products, for backends whose own convolution is slow.

XLA:CPU has a fast path for convolutions in a program's entry computation only: inside `lax.scan` or a while loop,
where training steps run, the gradients fall back to naive loops, 20 times slower (jax-ml/jax#12868). Matrix products
are fast anywhere. So a convolution gathers the patches under its kernel (im2col) and multiplies:

    y[b, i, j, :] = patches(x)[b, i, j, :] @ W         patches: [B, H', W', kh kw C],  W: [kh kw C, O]
    dW = patches(x)^T @ dy                             summed over b, i, j
    dx = the same convolution of dy, padded by k - 1, with the kernel flipped and its channels exchanged

The patches of a whole batch do not fit in a cache (42 MB for 64 images at [24, 24, 288]), so images are taken a few at
a time. Models do not know of this: `implementation` gives them what `flax.linen.Conv` calls.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

IMPLEMENTATIONS = ("auto", "matmul", "lax")

# Images whose patches are in the cache together: 2 to 8 measured alike within noise, 16 a quarter slower.
_IMAGES_PER_CHUNK = 4


def implementation(name: str) -> Callable[..., Any]:
    """The function for `nn.Conv(conv_general_dilated=...)`; `name` is one of `IMPLEMENTATIONS`.

    "auto" takes matrix products on a CPU and XLA's own convolution elsewhere.
    """
    if name == "auto":
        name = "matmul" if jax.default_backend() == "cpu" else "lax"
    return conv_general_dilated if name == "matmul" else lax.conv_general_dilated


def conv_general_dilated(lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **kwargs: Any) -> jax.Array:
    """`lax.conv_general_dilated`, by matrix products where the convolution is plain and unpadded.

    Args:
      lhs: images `[B, H, W, C]`.
      rhs: kernel `[kh, kw, C, O]`.
      window_strides, padding, kwargs: as for `lax.conv_general_dilated`. Strides, dilation, groups, padding or another
        layout are left to that function.

    Returns:
      `[B, H - kh + 1, W - kw + 1, O]` where it is plain.
    """
    plain = (
        tuple(window_strides) == (1, 1)
        and (padding == "VALID" or all(tuple(p) == (0, 0) for p in padding))
        and kwargs.get("lhs_dilation") in (None, (1, 1))
        and kwargs.get("rhs_dilation") in (None, (1, 1))
        and kwargs.get("feature_group_count", 1) == 1
        and kwargs.get("batch_group_count", 1) == 1
        and _is_channels_last(kwargs.get("dimension_numbers"), lhs, rhs)
    )
    if plain:
        return _conv_valid(lhs, rhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def _is_channels_last(dimension_numbers: Any, lhs: jax.Array, rhs: jax.Array) -> bool:
    wanted = lax.conv_dimension_numbers(lhs.shape, rhs.shape, ("NHWC", "HWIO", "NHWC"))
    return dimension_numbers is not None and wanted == lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, dimension_numbers
    )


@jax.custom_vjp
def _conv_valid(images: jax.Array, kernel: jax.Array) -> jax.Array:
    kh, kw, c, o = kernel.shape
    matrix = kernel.reshape(kh * kw * c, o)

    def products(chunk: jax.Array) -> jax.Array:
        return _patches(chunk, kh, kw) @ matrix

    return _merge(lax.map(products, _split(images)))


def _conv_forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv_valid(images, kernel), (images, kernel)


def _conv_backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    kh, kw, c, o = kernel.shape
    # Dead code where the images need no gradient (the first layer): XLA removes it.
    padded = jnp.pad(dy, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
    d_images = _conv_valid(padded, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))

    def add_products(total: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        patches, dy_chunk = _patches(chunk[0], kh, kw), chunk[1]
        product = jnp.einsum("bhwk,bhwo->ko", patches, dy_chunk, preferred_element_type=jnp.float32)
        return total + product, None

    zero = jnp.zeros((kh * kw * c, o), jnp.float32)
    d_matrix, _ = lax.scan(add_products, zero, (_split(images), _split(dy)))
    return d_images, d_matrix.reshape(kernel.shape).astype(kernel.dtype)


_conv_valid.defvjp(_conv_forward, _conv_backward)


def _patches(images: jax.Array, kh: int, kw: int) -> jax.Array:
    """`[b, H, W, C]` to `[b, H - kh + 1, W - kw + 1, kh * kw * C]`, in the order of a `[kh, kw, C, O]` kernel."""
    height, width = images.shape[1] - kh + 1, images.shape[2] - kw + 1
    windows = [images[:, i : i + height, j : j + width] for i in range(kh) for j in range(kw)]
    return jnp.concatenate(windows, axis=-1)


def _split(x: jax.Array) -> jax.Array:
    """`[B, ...]` to `[B / b, b, ...]`, with b the largest divisor of B up to `_IMAGES_PER_CHUNK`."""
    size = max(d for d in range(1, _IMAGES_PER_CHUNK + 1) if x.shape[0] % d == 0)
    return x.reshape(x.shape[0] // size, size, *x.shape[1:])


def _merge(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])

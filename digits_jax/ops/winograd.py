"""Winograd's minimal filtering: 3x3 convolutions with a quarter of the multiplications.

m outputs y of a 3-tap filter g over the m + 2 inputs d take m + 2 multiplications instead of 3 m:

    y = A^T [(G g) * (B^T d)]                                               F(m, 3), * elementwise

Along both axes of an image that is (m + 2)^2 multiplications for m^2 outputs, 2.25 each for m = 4 instead of 9. The
elementwise product, summed over the channels, is one matrix product for each of the (m + 2)^2 places of a tile:

    V = B^T d B for the tiles d of the images, which overlap by 2           [(m + 2)^2, tiles, C]
    U = G g G^T                                                             [(m + 2)^2, C, O]
    y = A^T (V @ U) A                                                       m x m outputs of each tile

The transforms are sums of few terms, which XLA fuses into passes over memory. Matrices: Lavin & Gray 2016,
arXiv:1509.09308, section 4. The gradients are those of the same formula: they cost as few multiplications.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _matrices(*points: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns B^T [m + 2, m + 2], G [m + 2, 3] and A^T [m, m + 2] of Toom and Cook's construction.

    They interpolate a product of polynomials from its values at the m + 1 points and at infinity. Source: Barabasz et
    al. 2020, arXiv:1803.10986, section 3.
    """
    m = len(points) - 1
    others = [[q for q in points if q != p] for p in points]
    # Coefficients of the product of all x - q, by increasing powers of x.
    to_tiles = [[*np.poly(roots)[::-1], 0.0] for roots in others] + [np.poly(points)[::-1]]
    to_kernel = [np.power(p, range(3)) / np.prod(np.subtract(p, q)) for p, q in zip(points, others, strict=True)]
    to_output = [[*np.power(points, i), float(i == m - 1)] for i in range(m)]
    return np.array(to_tiles), np.array([*to_kernel, [0, 0, 1]]), np.array(to_output)


# By m, the first that fits is taken. The networks' outputs of 24 and 8 pixels take tiles of 4, those of 10 tiles of 5,
# in 1.96 multiplications each instead of the 4 of tiles of 2. Errors grow with m.
_MATRICES = {
    4: _matrices(0.0, 1.0, -1.0, 2.0, -2.0),
    5: _matrices(0.0, 1.0, -1.0, 2.0, -2.0, 0.5),
    2: _matrices(0.0, 1.0, -1.0),
}


def tile_size(image_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> int | None:
    """Returns an m whose tiles cover the output of `[B, H, W, C]` and `[kh, kw, C, O]` exactly, or None."""
    if kernel_shape[:2] != (3, 3):
        return None
    height, width = image_shape[1] - 2, image_shape[2] - 2
    return next((m for m in _MATRICES if height > 0 and width > 0 and height % m == width % m == 0), None)


def conv3x3(images: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    """Convolves `[B, H, W, C]` with `[3, 3, C, O]`, unpadded, to `[B, H - 2, W - 2, O]`.

    H - 2 and W - 2 are multiples of m, see `tile_size`. Errors are about ten times those of a
    direct sum: the largest is 5e-6 of the largest output, on unit-normal data with C = 64.
    """
    to_tiles, to_kernel, to_output = _MATRICES[m]
    rows = jnp.stack(_combine(to_tiles, _tiles(images, 1, m)))  # [m + 2, B, H / m, W, C]
    v = jnp.stack(_combine(to_tiles, _tiles(rows, 3, m)))  # [m + 2, m + 2, B, H / m, W / m, C]
    u = jnp.stack(_combine(to_kernel, jnp.unstack(kernel)))  # [m + 2, 3, C, O]
    u = jnp.stack(_combine(to_kernel, jnp.unstack(u, axis=1)))  # [m + 2, m + 2, C, O]
    products = jnp.einsum("nkc,nco->nko", v.reshape(len(to_tiles) ** 2, -1, v.shape[-1]), u.reshape(-1, *u.shape[2:]))
    products = products.reshape(*v.shape[:-1], -1)
    columns = jnp.stack(_combine(to_output, jnp.unstack(products)), axis=-2)  # [m + 2, B, H / m, W / m, m, O]
    y = jnp.stack(_combine(to_output, jnp.unstack(columns)), axis=2)  # [B, H / m, m, W / m, m, O]
    return y.reshape(len(images), images.shape[1] - 2, images.shape[2] - 2, -1)


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Computes `matrix @ parts` without the terms that are zero."""
    return [
        functools.reduce(jnp.add, (float(f) * part for f, part in zip(row, parts, strict=True) if f)) for row in matrix
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _tiles(x: jax.Array, axis: int, m: int) -> list[jax.Array]:
    """Cuts an axis of n m + 2 into n tiles of m + 2 that overlap by 2; returns an array for each place in a tile."""
    outputs = x.shape[axis] - 2
    return [lax.slice_in_dim(x, place, place + outputs - m + 1, m, axis) for place in range(m + 2)]


def _tiles_backward(axis: int, m: int, residuals: None, places: list[jax.Array]) -> tuple[jax.Array]:
    """Sums the tiles where they overlap. JAX would derive a sum of m + 2 dilated arrays, which takes far longer."""

    def pad(x: jax.Array, before: int, after: int) -> jax.Array:
        return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])

    # The last two places of a tile are the first two of the next: n + 1 tiles of m.
    first = [pad(place, 0, 1) for place in places[:m]]
    for place, overlap in enumerate(places[m:]):
        first[place] += pad(overlap, 1, 0)
    x = jnp.stack(first, axis=axis + 1)
    shape = (*x.shape[:axis], x.shape[axis] * m, *x.shape[axis + 2 :])
    return (lax.slice_in_dim(x.reshape(shape), 0, shape[axis] - m + 2, axis=axis),)


_tiles.defvjp(lambda x, axis, m: (_tiles(x, axis, m), None), _tiles_backward)

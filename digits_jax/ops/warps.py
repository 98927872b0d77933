"""Images read at random or given positions: affine warps and elastic distortions.

The affine warps are those of Keras 1's `ImageDataGenerator` (`random_transform` in keras/preprocessing/image.py,
releases 1.0.8 to 1.2.2), which the post used. For each image, uniformly at random,

    theta in +-rotation (degrees)                       t_h in +-height_shift x H, t_w in +-width_shift x W (pixels)
    s     in +-shear (radians, not degrees)             z_h, z_w in 1 +- zoom

and the pixel at (row, column) o is read from the source at M o, about the center c = (H / 2 + 0.5, W / 2 + 0.5):

    M = T(c) R(theta) T(t_h, t_w) S(s) Z(z_h, z_w) T(-c)

    R = [[cos, -sin], [sin, cos]]      S = [[1, -sin s], [0, cos s]]      Z = [[z_h, 0], [0, z_w]]

Beyond the source its edge is repeated. Keras samples the nearest pixel (`order=0`).
"""

import math

import jax
import jax.numpy as jnp

INTERPOLATIONS = ("nearest", "bilinear")


def sample(images: jax.Array, source_h: jax.Array, source_w: jax.Array, *, interpolation: str) -> jax.Array:
    """Reads each output pixel of an image at a position of its own; beyond the image its edge is repeated.

    Args:
      images: `[B, H, W, C]`, of any type.
      source_h, source_w: rows and columns, `[B, H, W]`, in pixels.
      interpolation: "nearest" (half-way points go up, as in scipy) or "bilinear".

    Returns:
      float32 `[B, H, W, C]`, in the range of `images`.
    """
    batch, height, width, channels = images.shape
    source_h, source_w = jnp.clip(source_h, 0, height - 1), jnp.clip(source_w, 0, width - 1)
    flat = images.reshape(batch, height * width, channels)

    def pixels(h: jax.Array, w: jax.Array) -> jax.Array:
        index = (h.astype(jnp.int32) * width + w.astype(jnp.int32)).reshape(batch, -1, 1)
        found = jnp.take_along_axis(flat, index, axis=1, mode="promise_in_bounds")
        return found.reshape(images.shape).astype(jnp.float32)

    if interpolation == "nearest":
        return pixels(jnp.floor(source_h + 0.5), jnp.floor(source_w + 0.5))
    low_h, low_w = jnp.floor(source_h), jnp.floor(source_w)
    high_h, high_w = jnp.minimum(low_h + 1, height - 1), jnp.minimum(low_w + 1, width - 1)
    part_h, part_w = (source_h - low_h)[..., None], (source_w - low_w)[..., None]
    upper = (1 - part_w) * pixels(low_h, low_w) + part_w * pixels(low_h, high_w)
    lower = (1 - part_w) * pixels(high_h, low_w) + part_w * pixels(high_h, high_w)
    return (1 - part_h) * upper + part_h * lower


def random_affine(
    key: jax.Array,
    count: int,
    *,
    image_shape: tuple[int, int],
    rotation: float,
    height_shift: float,
    width_shift: float,
    shear: float,
    zoom: float,
) -> jax.Array:
    """Draws `count` matrices `[count, 2, 3]` that take an output pixel (row, column, 1) to its source.

    Args:
      key: of the draw.
      count: B.
      image_shape: (H, W) in pixels.
      rotation, height_shift, width_shift, shear, zoom: ranges, in the units of the module's docstring.
    """
    height, width = image_shape
    draws = jax.random.uniform(key, (count, 6), minval=-1.0, maxval=1.0).T
    theta, shear_angle = jnp.deg2rad(rotation) * draws[0], shear * draws[1]
    shift_h, shift_w = height_shift * height * draws[2], width_shift * width * draws[3]
    zoom_h, zoom_w = 1 + zoom * draws[4], 1 + zoom * draws[5]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    # The linear part R S Z, written out; S Z = [[z_h, -z_w sin s], [0, z_w cos s]].
    upper, lower = -zoom_w * jnp.sin(shear_angle), zoom_w * jnp.cos(shear_angle)
    rows = [cos * zoom_h, cos * upper - sin * lower], [sin * zoom_h, sin * upper + cos * lower]
    linear = jnp.array(rows)  # [2, 2, B]
    # T(c) R T(t) S Z T(-c) moves by c + R t - R S Z c.
    center_h, center_w = height / 2 + 0.5, width / 2 + 0.5
    offset = jnp.array(
        [
            center_h + cos * shift_h - sin * shift_w - linear[0, 0] * center_h - linear[0, 1] * center_w,
            center_w + sin * shift_h + cos * shift_w - linear[1, 0] * center_h - linear[1, 1] * center_w,
        ]
    )  # [2, B]
    return jnp.concatenate([linear, offset[:, None]], axis=1).transpose(2, 0, 1)


def warp(images: jax.Array, matrices: jax.Array, *, interpolation: str) -> jax.Array:
    """Reads each output pixel o of an image from its source at matrix @ (o, 1).

    Args:
      images: `[B, H, W, C]`, of any type.
      matrices: `[B, 2, 3]`.
      interpolation: as for `sample`.

    Returns:
      float32 `[B, H, W, C]`, in the range of `images`.
    """
    _, height, width, _ = images.shape
    rows, columns = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    # Not a matrix product, which may round to bfloat16 on an accelerator.
    m = matrices[:, :, :, None, None]
    source_h = m[:, 0, 0] * rows + m[:, 0, 1] * columns + m[:, 0, 2]
    source_w = m[:, 1, 0] * rows + m[:, 1, 1] * columns + m[:, 1, 2]
    return sample(images, source_h, source_w, interpolation=interpolation)


def random_displacements(
    key: jax.Array, count: int, *, image_shape: tuple[int, int], alpha: float, sigma: float
) -> jax.Array:
    """Draws smooth displacements of each pixel (Simard et al. 2003), `[2, count, H, W]`, in pixels.

    They are uniform in +-1, smoothed by a Gaussian with a standard deviation of `sigma` pixels, times `alpha` pixels.
    """

    def gaussian(size: int) -> jax.Array:
        distances = jnp.arange(size)[:, None] - jnp.arange(size)[None]
        return jnp.exp(-((distances / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))

    height, width = image_shape
    noise = jax.random.uniform(key, (2, count, height, width), minval=-1.0, maxval=1.0)
    return alpha * jnp.einsum("hi,nbij,jw->nbhw", gaussian(height), noise, gaussian(width))

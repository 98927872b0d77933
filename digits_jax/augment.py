"""Augmentation in JAX, on the device, inside the compiled step: random affine warps, and the table they stand in.

The warps are those of Keras 1's `ImageDataGenerator` (`random_transform` in keras/preprocessing/image.py, releases
1.0.8 to 1.2.2), which the post used. Each image draws, uniformly,

    theta in +-rotation (degrees)                       t_h in +-height_shift x H, t_w in +-width_shift x W (pixels)
    s     in +-shear (radians, not degrees)             z_h, z_w in 1 +- zoom

and its pixel at (row, column) o is read from the source at M o, about the centre c = (H / 2 + 0.5, W / 2 + 0.5):

    M = T(c) R(theta) T(t_h, t_w) S(s) Z(z_h, z_w) T(-c)

    R = [[cos, -sin], [sin, cos]]      S = [[1, -sin s], [0, cos s]]      Z = [[z_h, 0], [0, z_w]]

Outside the source its edge is repeated. Keras samples the nearest pixel (`order=0`); bilinear is there to compare with.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

INTERPOLATIONS = ("nearest", "bilinear")
RANGES = ("rotation", "height_shift", "width_shift", "shear", "zoom")

# Takes a key and images [B, H, W, C] in [0, 255]; returns them warped, as float32, or untouched.
Augment = Callable[[jax.Array, jax.Array], jax.Array]


def affine(augment_config: ConfigDict) -> Augment:
    """Random warps; with all ranges at zero, the identity, which costs nothing."""
    if all(augment_config[name] == 0 for name in RANGES):
        return lambda key, images: images

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        matrices = random_affine(
            key,
            images.shape[0],
            image_shape=(images.shape[1], images.shape[2]),
            rotation=augment_config.rotation,
            height_shift=augment_config.height_shift,
            width_shift=augment_config.width_shift,
            shear=augment_config.shear,
            zoom=augment_config.zoom,
        )
        return warp(images, matrices, interpolation=augment_config.interpolation)

    return augment


AUGMENTATIONS: dict[str, Callable[[ConfigDict], Augment]] = {"affine": affine}


def create_augment(augment_config: ConfigDict) -> Augment:
    """What `config.augment` describes."""
    return AUGMENTATIONS[augment_config.name](augment_config)


def create_test_augment(augment_config: ConfigDict) -> Augment:
    """The same for test images, with the ranges that are given for these."""
    ranges = dict(zip(RANGES, augment_config.test_ranges, strict=True)) if augment_config.test_ranges else {}
    return create_augment(ConfigDict({**augment_config, **ranges}))


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
      rotation: degrees.
      height_shift, width_shift: fractions of the height and the width.
      shear: radians.
      zoom: fraction by which each axis may grow or shrink.
    """
    height, width = image_shape
    # An image's draws depend on its place in the batch, not on the batch's size: one may be filled up.
    draws = jax.random.uniform(key, (count, 6), minval=-1.0, maxval=1.0).T
    theta, shear_angle = jnp.deg2rad(rotation) * draws[0], shear * draws[1]
    shift_h, shift_w = height_shift * height * draws[2], width_shift * width * draws[3]
    zoom_h, zoom_w = 1 + zoom * draws[4], 1 + zoom * draws[5]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    # The linear part R S Z, written out; S Z = [[z_h, -z_w sin s], [0, z_w cos s]].
    upper, lower = -zoom_w * jnp.sin(shear_angle), zoom_w * jnp.cos(shear_angle)
    linear = jnp.array(
        [
            [cos * zoom_h, cos * upper - sin * lower],
            [sin * zoom_h, sin * upper + cos * lower],
        ]
    )  # [2, 2, B]
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
      interpolation: "nearest" (half-way points go up, as in scipy) or "bilinear".

    Returns:
      float32 `[B, H, W, C]`, in the range of `images`.
    """
    batch, height, width, channels = images.shape
    rows, columns = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    # Not a matrix product, which may round to bfloat16 on an accelerator.
    m = matrices[:, :, :, None, None]
    source_h = jnp.clip(m[:, 0, 0] * rows + m[:, 0, 1] * columns + m[:, 0, 2], 0, height - 1)
    source_w = jnp.clip(m[:, 1, 0] * rows + m[:, 1, 1] * columns + m[:, 1, 2], 0, width - 1)
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

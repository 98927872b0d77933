"""Augmentation in JAX, on the device: random affine warps in training, and test-time augmentation.

The warps are those of Keras 1's `ImageDataGenerator` (`random_transform` in keras/preprocessing/image.py, releases
1.0.8 to 1.2.2), which the post used. For each image, uniformly at random,

    theta in +-rotation (degrees)                       t_h in +-height_shift x H, t_w in +-width_shift x W (pixels)
    s     in +-shear (radians, not degrees)             z_h, z_w in 1 +- zoom

and the pixel at (row, column) o is read from the source at M o, about the center c = (H / 2 + 0.5, W / 2 + 0.5):

    M = T(c) R(theta) T(t_h, t_w) S(s) Z(z_h, z_w) T(-c)

    R = [[cos, -sin], [sin, cos]]      S = [[1, -sin s], [0, cos s]]      Z = [[z_h, 0], [0, z_w]]

Beyond the source its edge is repeated. Keras samples the nearest pixel (`order=0`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from ml_collections import ConfigDict

INTERPOLATIONS = ("nearest", "bilinear")
RANGES = ("rotation", "height_shift", "width_shift", "shear", "zoom")

# Takes a key and images [B, H, W, C] in [0, 255]; returns them augmented, float32 or as they were.
Augment = Callable[[jax.Array, jax.Array], jax.Array]


def identity(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the images as they are."""
    return images


def affine(augment_config: ConfigDict) -> Augment:
    """Builds random affine warps; with all ranges at zero, the identity, which costs nothing."""
    ranges = {name: augment_config[name] for name in RANGES}
    if not any(ranges.values()):
        return identity

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        matrices = random_affine(key, batch, image_shape=(height, width), **ranges)
        return warp(images, matrices, interpolation=augment_config.interpolation)

    return augment


AUGMENTATIONS: dict[str, Callable[[ConfigDict], Augment]] = {"affine": affine}


def create_augment(augment_config: ConfigDict) -> Augment:
    """Builds the augmentation of training images that `config.augment` describes."""
    return AUGMENTATIONS[augment_config.name](augment_config)


def create_test_augment(augment_config: ConfigDict) -> Augment:
    """Builds the augmentation of test images: the same, with their own ranges where these are given."""
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


def shifts(images: jax.Array) -> list[jax.Array]:
    """Returns images `[B, H, W, C]` as they are, and shifted by a pixel up, down, left and right.

    What is shifted in is 0.
    """
    steps, zero = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)), jnp.zeros((), images.dtype)  # down and right
    return [lax.pad(images, zero, ((0, 0, 0), (y, -y, 0), (x, -x, 0), (0, 0, 0))) for y, x in steps]


TEST_TIME_AUGMENTATIONS: dict[str, Callable[[jax.Array], list[jax.Array]] | None] = {"none": None, "shifts": shifts}


def average_over_versions(apply: Callable[[jax.Array], Any], name: str) -> Callable[[jax.Array], jax.Array]:
    """Averages a model's predictions over the augmented versions of an image.

    Args:
      apply: takes images `[B, H, W, C]` and returns logits `[B, num_classes]`.
      name: a key of `TEST_TIME_AUGMENTATIONS`.

    Returns:
      A function from images to logits whose softmax is the mean of the softmaxes over the versions.
    """
    versions = TEST_TIME_AUGMENTATIONS[name]
    if versions is None:
        return apply

    def averaged(images: jax.Array) -> jax.Array:
        log_probs = lax.map(lambda version: nn.log_softmax(apply(version)), jnp.stack(versions(images)))
        return nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))

    return averaged

"""Augmentation in JAX, on the device, of a batch with its labels."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from digits_jax import ops
from digits_jax.bounds import POSITIVE, number, one_of
from digits_jax.data import Examples
from digits_jax.errors import ConfigError
from digits_jax.tables import Field, Table

RANGES = ("rotation", "height_shift", "width_shift", "shear", "zoom")

# Takes a key and a batch, with images [B, H, W, C] in [0, 255]; returns it augmented. Images may become float32, and
# labels [B] those of mixed images, float32 [B, num_classes], which sum to 1.
Augment = Callable[[jax.Array, Examples], Examples]


def identity(key: jax.Array, batch: Examples) -> Examples:
    """Returns the batch as it is."""
    return batch


def affine(
    *,
    rotation: float = 0.0,
    height_shift: float = 0.0,
    width_shift: float = 0.0,
    shear: float = 0.0,
    zoom: float = 0.0,
    interpolation: str = "nearest",
) -> Augment:
    """Builds random affine warps; with all ranges at zero, the identity, which costs nothing."""
    ranges = {
        "rotation": rotation, "height_shift": height_shift, "width_shift": width_shift, "shear": shear, "zoom": zoom,
    }  # fmt: skip
    if not any(ranges.values()):
        return identity

    def augment(key: jax.Array, batch: Examples) -> Examples:
        count, height, width, _ = batch.images.shape
        matrices = ops.random_affine(key, count, image_shape=(height, width), **ranges)
        return batch._replace(images=ops.warp(batch.images, matrices, interpolation=interpolation))

    return augment


def elastic(*, elastic_alpha: float = 34.0, elastic_sigma: float = 4.0) -> Augment:
    """Builds elastic distortions, by default with the values of Simard et al. (2003) for images of 29x29."""

    def augment(key: jax.Array, batch: Examples) -> Examples:
        count, height, width, _ = batch.images.shape
        size, scale = (height, width), {"alpha": elastic_alpha, "sigma": elastic_sigma}
        shift_h, shift_w = ops.random_displacements(key, count, image_shape=size, **scale)
        rows, columns = jnp.arange(height)[None, :, None] + shift_h, jnp.arange(width)[None, None, :] + shift_w
        return batch._replace(images=ops.sample(batch.images, rows, columns, interpolation="bilinear"))

    return augment


def erasing(*, erasing_probability: float = 0.5, erasing_area: float = 0.4) -> Augment:
    """Builds random erasing (Zhong et al. 2020): a rectangle of an image becomes black.

    Its area is uniform from 2% to `erasing_area` of the image, its height over its width log-uniform from 0.3 to
    1 / 0.3; what lies outside of the image is cut off.
    """

    def augment(key: jax.Array, batch: Examples) -> Examples:
        count, height, width, _ = batch.images.shape
        draws = jax.random.uniform(key, (5, count, 1, 1, 1))
        area = (0.02 + (erasing_area - 0.02) * draws[0]) * height * width
        ratio = 0.3 ** (2 * draws[1] - 1)
        rows, columns = jnp.arange(height)[None, :, None, None], jnp.arange(width)[None, None, :, None]
        in_height = abs(rows - draws[2] * (height - 1)) < jnp.sqrt(area * ratio) / 2
        in_width = abs(columns - draws[3] * (width - 1)) < jnp.sqrt(area / ratio) / 2
        erased = in_height & in_width & (draws[4] < erasing_probability)
        return batch._replace(images=jnp.where(erased, 0, batch.images))

    return augment


_FRACTION = number(0, 1)
AUGMENTATIONS = Table(
    {"affine": affine, "elastic": elastic, "erasing": erasing},
    {
        "rotation": Field(float, number(0, 180), "degrees: +- this"),
        "height_shift": Field(float, _FRACTION, "fraction of the height: +- this"),
        "width_shift": Field(float, _FRACTION, "fraction of the width: +- this"),
        "shear": Field(float, number(0, math.pi / 2, open_end=True), "radians: +- this"),
        "zoom": Field(float, number(0, 1, open_end=True), "fraction of the size: each axis is scaled by 1 +- this"),
        "interpolation": Field(str, one_of(ops.INTERPOLATIONS), "sampling; nearest is Keras 1's"),
        "elastic_alpha": Field(float, number(0), "pixels: scale of the smoothed displacements"),
        "elastic_sigma": Field(float, POSITIVE, "pixels: standard deviation of their smoothing"),
        "erasing_probability": Field(float, _FRACTION, "fraction of the images of which a rectangle is erased"),
        "erasing_area": Field(float, number(0.02, 1), "largest fraction of an image that is erased"),
    },
    name_field="names",
)


def create_augment(augment_config: ConfigDict, num_classes: int) -> Augment:
    """Builds the augmentations that `config.augment` names, in their order, each with random numbers of its own."""
    create = functools.partial(AUGMENTATIONS.create, section=augment_config, num_classes=num_classes)
    steps = [create(name) for name in augment_config.names]
    steps = [step for step in steps if step is not identity]

    def augment(key: jax.Array, batch: Examples) -> Examples:
        for i, step in enumerate(steps):
            batch = step(jax.random.fold_in(key, i) if i else key, batch)
        return batch

    return augment if steps else identity


def create_test_augment(augment_config: ConfigDict, num_classes: int) -> Augment:
    """Builds the augmentation of test images: the same, with their own ranges where these are given.

    Raises a ConfigError, when it is called, if it changes labels.
    """
    ranges = dict(zip(RANGES, augment_config.test_ranges, strict=True)) if augment_config.test_ranges else {}
    augment = create_augment(ConfigDict({**augment_config, **ranges}), num_classes)

    def augment_images(key: jax.Array, batch: Examples) -> Examples:
        augmented = augment(key, batch)
        if augmented.labels is not batch.labels:
            raise ConfigError(
                f"config.augment.test is True: expected False, as {augment_config.names!r} changes labels"
            )
        return augmented

    return augment_images

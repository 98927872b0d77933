"""Flax Linen modules, and `MODELS`, the table of functions that create them from a config.

A model takes raw pixels and normalizes them itself, so that its parameters can be used without the code that trained
them. The building blocks are bound once at the top of `__call__`, so that its body reads like the post.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from digits_jax import ops
from digits_jax.errors import ConfigError

BATCH_NORM_PLACES = ("none", "before", "after")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def keras1_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Initializes as `glorot_uniform` of Keras up to 1.1.2, which reads a convolution's kernel in Theano's order.

    The layer asks for its initializer with `dim_ordering="tf"`, which the look-up (`get_from_module`) drops.
    A kernel `[kh, kw, C, O]` is then read as `[O, C, kh, kw]`: fan_in = kw C O, fan_out = kh C O, so that a 3x3 kernel
    is uniform in +-1 / sqrt(C O). Dense layers are Glorot's. Source: keras/initializations.py and
    keras/utils/generic_utils.py of Keras 1.0.8 and 1.1.2.
    """
    if len(shape) == 2:
        return nn.initializers.glorot_uniform()(key, shape, dtype)
    kh, kw, c, o = shape
    limit = math.sqrt(6 / ((kh + kw) * c * o))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


KERNEL_INITS = {
    "glorot_uniform": nn.initializers.glorot_uniform(),  # Glorot & Bengio 2010: +-sqrt(6 / (fan_in + fan_out))
    "keras1_uniform": keras1_uniform,
}


def normalize(images: jax.Array, mean: float, std: float) -> jax.Array:
    """Shifts and scales raw pixels in [0, 255], of any type, to float32 with mean 0 and standard deviation 1."""
    return (images.astype(jnp.float32) - mean) / std


class Linear(nn.Module):
    """Softmax regression: logits = W (x - mean) / std + b."""

    num_classes: int
    mean: float
    std: float
    kernel_init: nn.initializers.Initializer
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits `[B, num_classes]` of raw pixels `[B, H, W, C]` in [0, 255]."""
        x = normalize(images, self.mean, self.std).reshape(images.shape[0], -1)
        logits = ops.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype)(x)
        return logits.astype(jnp.float32)


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each closed by a 2x2 max-pool, then two dense layers.

    Convolutions are not padded (VALID). With `batch_norm`, each activation has a layer of it before or after.
    """

    num_classes: int
    mean: float
    std: float
    kernel_init: nn.initializers.Initializer
    dtype: Any
    widths: tuple[tuple[int, ...], ...]
    hidden_width: int
    block_dropout: tuple[float, ...]
    hidden_dropout: float
    batch_norm: str
    bn_momentum: float
    bn_epsilon: float

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits `[B, num_classes]` of raw pixels `[B, H, W, C]` in [0, 255].

        With `train`, dropout draws from the "dropout" key, and batch normalization uses the statistics of the batch
        and updates the collection "batch_stats".
        """
        conv3x3 = partial(ops.Conv, kernel_size=(3, 3), padding="VALID", kernel_init=self.kernel_init, dtype=self.dtype)
        dense = partial(ops.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        dropout = partial(nn.Dropout, deterministic=not train)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            dtype=self.dtype,
        )

        def activation(x: jax.Array) -> jax.Array:
            x = norm()(x) if self.batch_norm == "before" else x
            x = nn.relu(x)
            return norm()(x) if self.batch_norm == "after" else x

        x = normalize(images, self.mean, self.std)
        for widths, rate in zip(self.widths, self.block_dropout, strict=True):
            for width in widths:
                x = activation(conv3x3(width)(x))
            x = ops.max_pool_2x2(x)
            x = dropout(rate)(x)
        x = x.reshape(x.shape[0], -1)
        x = activation(dense(self.hidden_width)(x))
        x = dropout(self.hidden_dropout)(x)
        return dense(self.num_classes)(x).astype(jnp.float32)


def linear(model_config: ConfigDict, num_classes: int) -> nn.Module:
    """Creates the `Linear` model of a config."""
    return Linear(num_classes, **_common_fields(model_config))


def vgg(model_config: ConfigDict, num_classes: int) -> nn.Module:
    """Creates the `VGG` model of a config."""
    return VGG(
        num_classes,
        **_common_fields(model_config),
        widths=model_config.widths,
        hidden_width=model_config.hidden_width,
        block_dropout=model_config.block_dropout,
        hidden_dropout=model_config.hidden_dropout,
        batch_norm=model_config.batch_norm,
        bn_momentum=model_config.bn_momentum,
        bn_epsilon=model_config.bn_epsilon,
    )


def _common_fields(model_config: ConfigDict) -> dict[str, Any]:
    return {
        "mean": model_config.mean,
        "std": model_config.std,
        "kernel_init": KERNEL_INITS[model_config.kernel_init],
        "dtype": DTYPES[model_config.dtype],
    }


MODELS: dict[str, Callable[[ConfigDict, int], nn.Module]] = {"linear": linear, "vgg": vgg}


def create_model(model_config: ConfigDict, num_classes: int) -> nn.Module:
    """Creates the model that a resolved `config.model` names."""
    return MODELS[model_config.name](model_config, num_classes)


def check_image_shape(model_config: ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Raises ConfigError where unpadded convolutions and pools leave nothing of an `(H, W, C)` image."""
    size = min(image_shape[:2])
    for widths in model_config.widths:
        size = (size - 2 * len(widths)) // 2
    if model_config.name != "linear" and size < 1:
        raise ConfigError(
            f"config.model.widths is {model_config.widths!r}: unpadded 3x3 convolutions and 2x2 pools leave "
            f"nothing of an image of {image_shape[0]}x{image_shape[1]}; use fewer layers"
        )

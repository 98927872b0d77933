"""The models as Flax Linen modules, and the table that a config chooses from.

A model takes raw pixels and normalises them itself, so that its parameters can be used without the code that trained
them. The building blocks are bound once at the top of `__call__`, so that its body reads like the post.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from digits_jax.errors import ConfigError
from digits_jax.ops import conv, dense
from digits_jax.ops.batch_norm import BatchNorm
from digits_jax.ops.layers import max_pool_2x2, normalize

BATCH_NORM_PLACES = ("none", "before", "after")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def keras1_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Glorot-uniform as Keras up to 1.1.2 drew it: for convolutions with the fans of a kernel in Theano's order.

    The layer asks for its initialiser with `dim_ordering="tf"`, which the look-up (`get_from_module`) drops.
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
    "he_normal": nn.initializers.he_normal(),  # He et al. 2015: variance 2 / fan_in
    "keras1_uniform": keras1_uniform,
}


class Linear(nn.Module):
    """Softmax regression: logits = W (x - mean) / std + b."""

    num_classes: int
    mean: float
    std: float
    kernel_init: nn.initializers.Initializer
    dtype: Any
    dot_general: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Raw pixels `[B, H, W, C]` in [0, 255] to float32 logits `[B, num_classes]`."""
        x = normalize(images, self.mean, self.std).reshape(images.shape[0], -1)
        logits = nn.Dense(
            self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, dot_general=self.dot_general
        )(x)
        return logits.astype(jnp.float32)


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each block closed by a 2x2 max-pool; then two dense layers.

    Convolutions are not padded (VALID). With `batch_norm`, a layer of it stands before or after each activation.
    """

    num_classes: int
    mean: float
    std: float
    kernel_init: nn.initializers.Initializer
    dtype: Any
    conv: Callable[..., jax.Array]
    dot_general: Callable[..., jax.Array]
    widths: tuple[tuple[int, ...], ...]
    hidden_width: int
    block_dropout: tuple[float, ...]
    hidden_dropout: float
    batch_norm: str
    bn_momentum: float
    bn_epsilon: float
    bn_groups: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Raw pixels `[B, H, W, C]` in [0, 255] to float32 logits `[B, num_classes]`.

        With `train`, dropout draws from the "dropout" key and batch normalisation uses the batch's statistics and
        updates the collection "batch_stats"; images where the `mask` `[B]` is false are left out of these.
        """
        conv3x3 = partial(
            nn.Conv,
            kernel_size=(3, 3),
            padding="VALID",
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            conv_general_dilated=self.conv,
        )
        dense_layer = partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype, dot_general=self.dot_general)
        dropout = partial(nn.Dropout, deterministic=not train)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            groups=self.bn_groups,
            dtype=self.dtype,
        )

        def normed(x: jax.Array) -> jax.Array:
            return norm()(x, mask=None if mask is None else jnp.expand_dims(mask, range(1, x.ndim)))

        def activation(x: jax.Array) -> jax.Array:
            x = normed(x) if self.batch_norm == "before" else x
            x = nn.relu(x)
            return normed(x) if self.batch_norm == "after" else x

        x = normalize(images, self.mean, self.std)
        for widths, rate in zip(self.widths, self.block_dropout, strict=True):
            for width in widths:
                x = activation(conv3x3(width)(x))
            x = max_pool_2x2(x)
            x = dropout(rate)(x)
        x = x.reshape(x.shape[0], -1)
        x = activation(dense_layer(self.hidden_width)(x))
        x = dropout(self.hidden_dropout)(x)
        return dense_layer(self.num_classes)(x).astype(jnp.float32)


MODELS: dict[str, type[nn.Module]] = {"linear": Linear, "vgg": VGG}


def create_model(model_config: ConfigDict, num_classes: int) -> nn.Module:
    """The module that a resolved `config.model` describes: each field that the module declares, from the config."""
    values = {
        **model_config,
        "num_classes": num_classes,
        "kernel_init": KERNEL_INITS[model_config.kernel_init],
        "dtype": DTYPES[model_config.dtype],
        "conv": conv.implementation(model_config.conv),
        "dot_general": dense.implementation(model_config.conv),
    }
    module = MODELS[model_config.name]
    fields = {field.name for field in dataclasses.fields(module)} - {"name", "parent"}
    return module(**{name: values[name] for name in fields})


def check_image_shape(model_config: ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Raises a ConfigError where unpadded convolutions and pools leave nothing of an `(H, W, C)` image."""
    if model_config.name == "linear":
        return
    size = min(image_shape[:2])
    for widths in model_config.widths:
        size = (size - 2 * len(widths)) // 2
        if size < 1:
            raise ConfigError(
                f"config.model.widths is {model_config.widths!r}: unpadded 3x3 convolutions and 2x2 pools leave "
                f"nothing of an image of {image_shape[0]}x{image_shape[1]}; use fewer layers"
            )

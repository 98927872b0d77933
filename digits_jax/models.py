"""Flax Linen modules, and `MODELS`, the table of those that a config can name.

A model takes raw pixels and normalizes them itself, so that its parameters can be used without the code that trained
them. The building blocks are bound once at the top of `__call__`, so that its body reads like the post.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from digits_jax import ops
from digits_jax.bounds import FINITE, POSITIVE, PROBABILITY, integer, number, one_of, tuple_of
from digits_jax.errors import ConfigError
from digits_jax.tables import Field, Table

BATCH_NORM_PLACES = ("none", "before", "after")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def normalize(images: jax.Array, mean: float, std: float) -> jax.Array:
    """Shifts and scales raw pixels in [0, 255], of any type, to float32 with mean 0 and standard deviation 1."""
    return (images.astype(jnp.float32) - mean) / std


class Linear(nn.Module):
    """Softmax regression: logits = W (x - mean) / std + b."""

    num_classes: int
    mean: float
    std: float
    kernel_init: str = "glorot_uniform"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits `[B, num_classes]` of raw pixels `[B, H, W, C]` in [0, 255]."""
        x = normalize(images, self.mean, self.std).reshape(images.shape[0], -1)
        dense = ops.Dense(self.num_classes, kernel_init=ops.KERNEL_INITS[self.kernel_init], dtype=DTYPES[self.dtype])
        return dense(x).astype(jnp.float32)


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each closed by a 2x2 max-pool, then two dense layers.

    Convolutions are not padded (VALID). With `batch_norm`, each activation has a layer of it before or after.
    """

    num_classes: int
    mean: float
    std: float
    kernel_init: str = "glorot_uniform"
    dtype: str = "float32"
    widths: tuple[tuple[int, ...], ...] = ((32, 32), (64, 64))
    hidden_width: int = 512
    block_dropout: tuple[float, ...] = (0.0, 0.0)
    hidden_dropout: float = 0.0
    batch_norm: str = "none"
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns float32 logits `[B, num_classes]` of raw pixels `[B, H, W, C]` in [0, 255].

        With `train`, dropout draws from the "dropout" key, and batch normalization uses the statistics of the batch
        and updates the collection "batch_stats".
        """
        kernel_init, dtype = ops.KERNEL_INITS[self.kernel_init], DTYPES[self.dtype]
        conv3x3 = partial(ops.Conv, kernel_size=(3, 3), kernel_init=kernel_init, dtype=dtype)
        dense = partial(ops.Dense, kernel_init=kernel_init, dtype=dtype)
        dropout = partial(nn.Dropout, deterministic=not train)
        norm = partial(ops.BatchNorm, use_running_average=not train, momentum=self.bn_momentum, epsilon=self.bn_epsilon)

        def activation(x: jax.Array) -> jax.Array | ops.Affine:
            x = ops.compute(norm()(x)) if self.batch_norm == "before" else x
            x = nn.relu(x)
            return norm()(x) if self.batch_norm == "after" else x

        x: jax.Array | ops.Affine = normalize(images, self.mean, self.std)
        for widths, rate in zip(self.widths, self.block_dropout, strict=True):
            for width in widths:
                x = activation(conv3x3(width)(x))
            x = ops.max_pool_2x2(x)
            x = dropout(rate)(ops.compute(x) if rate else x)
        x = ops.compute(x).reshape(x.shape[0], -1)
        x = ops.compute(activation(dense(self.hidden_width)(x)))
        x = dropout(self.hidden_dropout)(x)
        return dense(self.num_classes)(x).astype(jnp.float32)

    def check(self, image_shape: tuple[int, ...] | None) -> None:
        """Raises ConfigError if its fields contradict each other, or leave nothing of an `(H, W, C)` image."""
        if len(self.block_dropout) != len(self.widths):
            raise ConfigError(
                f"config.model.block_dropout is {self.block_dropout!r}: expected {len(self.widths)} of them, one per "
                "block of model.widths"
            )
        size = min(image_shape[:2]) if image_shape else math.inf
        for widths in self.widths:
            size = (size - 2 * len(widths)) // 2
        if image_shape and size < 1:
            raise ConfigError(
                f"config.model.widths is {self.widths!r}: unpadded 3x3 convolutions and 2x2 pools leave "
                f"nothing of an image of {image_shape[0]}x{image_shape[1]}; use fewer layers"
            )


# Takes the number of classes and the arguments.
MODELS = Table(
    {"linear": Linear, "vgg": VGG},
    {
        "mean": Field(float, FINITE, "gray level subtracted from pixels; None: that of the training set"),
        "std": Field(float, POSITIVE, "gray levels that pixels are divided by; None: as for the mean"),
        "kernel_init": Field(str, one_of(ops.KERNEL_INITS), "kernel initializer; biases are zero"),
        "dtype": Field(str, one_of(DTYPES), "type of activations; parameters stay float32"),
        "widths": Field(
            tuple, tuple_of(tuple_of(integer(1), ""), "a tuple of channels per block, such as ((8,), (8,))"),
            "channels of the 3x3 convolutions, per block; a 2x2 max-pool ends a block",
        ),
        "hidden_width": Field(int, integer(1), "units of the hidden dense layer"),
        "block_dropout": Field(
            tuple, tuple_of(PROBABILITY, "a probability in [0, 1) per block, such as (0.5, 0.5)"),
            "dropout rate after each block's max-pool",
        ),
        "hidden_dropout": Field(float, PROBABILITY, "dropout rate before the last layer"),
        "batch_norm": Field(str, one_of(BATCH_NORM_PLACES), "batch normalization around activations"),
        "bn_momentum": Field(float, number(0, 1), "weight of the old running mean and variance in each update"),
        "bn_epsilon": Field(float, number(0), "added to the variance; Keras 1.0.8 to 1.1.2 have 1e-5"),
    },
)  # fmt: skip


def create_model(model_config: ConfigDict, num_classes: int) -> nn.Module:
    """Creates the model that `config.model` names."""
    return MODELS.create(model_config.name, model_config, num_classes)


def check(model_config: ConfigDict, *, image_shape: tuple[int, ...] | None) -> None:
    """Raises a ConfigError where the configured model's own method `check` does; `image_shape` may be unknown yet."""
    model = create_model(ConfigDict({**model_config.to_dict(), "mean": 0.0, "std": 1.0}), 1)
    if hasattr(model, "check"):
        model.check(image_shape)

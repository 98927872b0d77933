"""Initializers of kernels."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


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

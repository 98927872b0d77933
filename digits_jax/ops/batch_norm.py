"""Batch normalisation by the statistics of the whole batch, wherever it lies, or of equal parts of it.

With as many parts as devices each normalises its own images, and nothing but gradients travels: what "local" batch
normalisation does on several devices, here on any number of them (Ghost Batch Normalization, Hoffer et al. 2017).
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from digits_jax.errors import ConfigError


class BatchNorm(nn.BatchNorm):
    """Flax's, with `groups` parts of the batch `[B, ..., C]` that are normalised by themselves.

    The running statistics move towards the mean of the parts' means and variances.
    """

    groups: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        if self.groups == 1 or self.is_initializing() or self.use_running_average:
            return super().__call__(x, use_running_average, mask=mask)
        mean, var = (self.variable("batch_stats", name, jnp.zeros, x.shape[-1:]) for name in ("mean", "var"))
        scale, bias = (self.param(name, nn.initializers.zeros, x.shape[-1:]) for name in ("scale", "bias"))
        if mask is not None:
            raise ConfigError(
                f"config.model.bn_groups is {self.groups}: expected 1, or batches that the devices share evenly"
            )
        parts = x.reshape(self.groups, -1, *x.shape[1:]).astype(jnp.float32)
        axes = tuple(range(1, parts.ndim - 1))
        take = partial(jnp.mean, axis=axes, keepdims=True)
        means = take(parts)
        variances = take(jnp.square(parts - means))
        mean.value = self.momentum * mean.value + (1 - self.momentum) * means.mean(range(parts.ndim - 1))
        var.value = self.momentum * var.value + (1 - self.momentum) * variances.mean(range(parts.ndim - 1))
        scale, bias = (jnp.broadcast_to(value, means.shape) for value in (scale, bias))
        normed = (parts - means) * (jax.lax.rsqrt(variances + self.epsilon) * scale) + bias
        return normed.reshape(x.shape).astype(self.dtype or x.dtype)

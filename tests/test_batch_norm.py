"""Batch normalisation of parts of a batch: each as if it were the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.errors import ConfigError
from digits_jax.ops.batch_norm import BatchNorm

X = jax.random.normal(jax.random.key(0), (12, 3, 3, 2)) * 3 + jnp.arange(12.0).reshape(12, 1, 1, 1)


def apply(groups: int, x: jax.Array, *, mask: jax.Array | None = None) -> tuple[jax.Array, dict]:
    norm = BatchNorm(use_running_average=False, momentum=0.9, groups=groups)
    variables = norm.init(jax.random.key(0), x)
    params = {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.0, 5.0])}
    y, updates = norm.apply({**variables, "params": params}, x, mask=mask, mutable=["batch_stats"])
    return y, updates["batch_stats"]


def test_each_part_is_normalised_as_a_batch_of_its_own() -> None:
    whole, statistics = apply(3, X)
    parts = [apply(1, part) for part in jnp.split(X, 3)]
    np.testing.assert_allclose(whole, jnp.concatenate([y for y, _ in parts]), rtol=1e-4, atol=1e-5)
    for name, value in statistics.items():
        np.testing.assert_allclose(value, np.mean([s[name] for _, s in parts], axis=0), rtol=1e-4)


def test_one_part_is_the_whole_batch() -> None:
    mean = X.mean((0, 1, 2))
    np.testing.assert_allclose(apply(1, X)[1]["mean"], 0.1 * mean, rtol=1e-5)


def test_a_batch_that_was_filled_up_has_no_equal_parts() -> None:
    with pytest.raises(ConfigError, match="bn_groups is 3: expected 1, or batches that the devices share evenly"):
        apply(3, X, mask=jnp.arange(12) < 11)

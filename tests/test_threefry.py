"""The bits are those of `jax.random.key`, everywhere that a model or an augmentation draws them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.ops import threefry

DRAWS: dict[str, Callable[[jax.Array], Any]] = {
    "uniform": lambda key: jax.random.uniform(key, (3, 5)),
    "one number": lambda key: jax.random.uniform(key),
    "normal": lambda key: jax.random.normal(key, (7,)),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (4, 4, 2)),
    "8 bits": lambda key: jax.random.bits(key, (5,), jnp.uint8),
    "16 bits": lambda key: jax.random.bits(key, (5,), jnp.uint16),
    "many": lambda key: jax.random.bits(key, (2**12 + 1,)),
    "many splits": lambda key: jax.random.key_data(jax.random.split(key, 2**12 + 1)),
    "permutation": lambda key: jax.random.permutation(key, 1000),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 3_000_000_000)),
    "split": lambda key: jax.random.key_data(jax.random.split(key, 3)),
    "split in two dimensions": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "split, folded and drawn": lambda key: jax.random.bits(jax.random.fold_in(jax.random.split(key)[1], 5), (9,)),
}


@pytest.mark.parametrize("seed", [0, 1, np.uint32(2**32 - 1)])
@pytest.mark.parametrize("name", DRAWS)
def test_the_bits_are_jaxs_own(name: str, seed: Any) -> None:
    draw = jax.jit(DRAWS[name])
    np.testing.assert_array_equal(draw(threefry.key(seed)), draw(jax.random.key(seed)))


def test_many_seeds_at_once() -> None:
    seeds = jnp.arange(4, dtype=jnp.uint32)

    def draw(make_key: Callable[[jax.Array], jax.Array]) -> jax.Array:
        return jax.vmap(lambda seed: jax.random.uniform(jax.random.fold_in(make_key(seed), seed), (6,)))(seeds)

    np.testing.assert_array_equal(draw(threefry.key), draw(jax.random.key))


def test_the_same_key_in_loops() -> None:
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, 7), (64,))

    key = threefry.key(3)
    np.testing.assert_array_equal(draw(threefry.in_loops(key)), draw(key))
    compiled = [jax.jit(draw).lower(k).compile().as_text() for k in (threefry.in_loops(key), key)]
    assert ["while" in text for text in compiled] == [True, False]


def test_64_bits() -> None:
    with jax.enable_x64(True):
        draws = [jax.random.bits(make_key(0), (5,), jnp.uint64) for make_key in (threefry.key, jax.random.key)]
    np.testing.assert_array_equal(*draws)


def test_there_is_no_loop() -> None:
    def draw(seed: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(threefry.key(seed), 1), (64,))

    assert "while" not in jax.jit(draw).lower(jnp.uint32(0)).compile().as_text()

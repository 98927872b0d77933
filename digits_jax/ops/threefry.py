"""JAX's default random number generator, bit for bit, with its hash unrolled.

On a CPU JAX lowers the Threefry hash to a `while` loop of five rounds, which compiles quickly. Inside a training step,
itself the body of a loop, such loops keep XLA:CPU from running the surrounding operations in parallel: one draw of 64
numbers makes a `vgg` step 11 % longer. Unrolled, the hash is one elementwise pass. XLA may then repeat that pass
wherever the numbers are used (a mask before a dense layer: dozens of times), so large draws are left to JAX.

Threefry-2x32 with 20 rounds: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Keys, counters and the
bits made of them are those of `jax_threefry_partitionable`, the default since JAX 0.5; a test compares the bits.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend import random as extend_random

_JAX = extend_random.threefry_prng_impl
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_LARGE = 2**12  # numbers; with 2**15 `bn_dropout` is 5 % faster, but `dropout` at batch 32 takes 1.5 times as long


def key(seed: int | jax.Array) -> jax.Array:
    """Creates the key that `jax.random.key(seed)` does, for all of `jax.random`, with the hash unrolled."""
    return jax.random.key(seed, impl=_IMPLEMENTATION)


def in_loops(key: jax.Array) -> jax.Array:
    """Returns the same key with JAX's own hash, which compiles in less time, for draws outside of training steps."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl="threefry2x32")


def _hash(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encrypts 64-bit counters, two uint32 arrays of the same shape as are returned, with a key `[2]`."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = high + keys[0], low + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << jnp.uint32(rotation) | y >> jnp.uint32(32 - rotation))
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def _hash_positions(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    low = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return _hash(key, jnp.zeros_like(low), low)


def _fold_in(key: jax.Array, data: int | jax.Array) -> jax.Array:
    high, low = _JAX.seed(jnp.asarray(data, jnp.uint32))
    return jnp.stack(_hash(key, high, low))


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if math.prod(shape) > _LARGE:
        return _JAX.split(key, shape)
    return jnp.stack(_hash_positions(key, shape), axis=-1)


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    if math.prod(shape) > _LARGE or bit_width > 32:
        return _JAX.random_bits(key, bit_width, shape)
    x, y = _hash_positions(key, shape)
    return (x ^ y).astype(f"uint{bit_width}")


_IMPLEMENTATION = extend_random.define_prng_impl(
    key_shape=(2,),
    seed=_JAX.seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_unrolled",
    tag="fryu",
)

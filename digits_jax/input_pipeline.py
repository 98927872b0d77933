"""The order in which training sees the images: a pure function of (seed, epoch)."""

from collections.abc import Iterator
from typing import NamedTuple

import jax


def epoch_batches(order_key: jax.Array, epoch: int, *, num_examples: int, batch_size: int) -> list[jax.Array]:
    """A permutation of `range(num_examples)`, cut into batches of indices.

    Args:
      order_key: the run's key for the order.
      epoch: from 0; each has its own permutation.
      num_examples: N.
      batch_size: at most N.

    Returns:
      The full batches, `[N // batch_size, batch_size]`, and where the batch size does not divide N the short last one,
      `[1, N % batch_size]`. Together they hold every index once.
    """
    order = jax.random.permutation(jax.random.fold_in(order_key, epoch), num_examples)
    cut = num_examples - num_examples % batch_size
    parts = [order[:cut].reshape(-1, batch_size), order[cut:].reshape(1, -1)]
    return [part for part in parts if part.size]


class Call(NamedTuple):
    """A run of consecutive batches that go into one compiled call."""

    batches: jax.Array  # int32 [num_batches, B]
    start: int  # the first of them to train on
    stop: int  # one past the last


def calls(parts: list[jax.Array], *, first_step: int, steps_per_call: int) -> Iterator[Call]:
    """Cuts an epoch from its step `first_step` on into calls of at most `steps_per_call` steps."""
    for batches in parts:
        for start in range(max(first_step, 0), len(batches), steps_per_call):
            yield Call(batches, start, min(start + steps_per_call, len(batches)))
        first_step -= len(batches)

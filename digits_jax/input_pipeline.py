"""The order of an epoch, a pure function of (seed, epoch), and how its batches reach the training step.

Two pipelines yield the same batches, bit for bit: `DevicePipeline` keeps all images on the device and passes indices;
`HostPipeline` gathers the images of the next call on the host, in a thread, for data that do not fit.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from digits_jax.data import Examples

IMAGES_ON = ("device", "host")


def epoch_batches(order_key: jax.Array, epoch: int, *, num_examples: int, batch_size: int) -> list[jax.Array]:
    """Permutes `range(num_examples)` and cuts it into batches of indices.

    Args:
      order_key: the run's key for the order of images.
      epoch: from 0; each has its own permutation.
      num_examples, batch_size: N and B, at most N.

    Returns:
      The full batches, `[N // B, B]`, and where B does not divide N the short last one, `[1, N % B]`.
    """
    order = jax.random.permutation(jax.random.fold_in(order_key, epoch), num_examples)
    cut = num_examples - num_examples % batch_size
    parts = [order[:cut].reshape(-1, batch_size), order[cut:].reshape(1, -1)]
    return [part for part in parts if part.size]


def stream_order(key: jax.Array, num_examples: int, *, batch_size: int) -> jax.Array:
    """Returns as many indices as there are examples, from the middle of an endless stream of shuffled batches.

    They are the end of one shuffle and the beginning of the next, cut at a random batch: some examples occur twice,
    others not at all. Keras 1 validates on such a stream: `evaluate_generator` takes `nb_val_samples` from wherever the
    generator is, and drops the up to ten batches that its queue has prefetched, so that the next call starts elsewhere
    (keras/engine/training.py, releases 1.0.8 to 1.2.2).

    Returns:
      int32 `[num_examples]`.
    """
    first, second, offset = jax.random.split(key, 3)
    stream = jnp.concatenate([jax.random.permutation(k, num_examples) for k in (first, second)])
    batches = -(-num_examples // batch_size)  # of one shuffle, the last one short
    start = batch_size * jax.random.randint(offset, (), 0, batches)
    return lax.dynamic_slice_in_dim(stream, start, num_examples)


class Call(NamedTuple):
    """The arguments of one compiled call: it trains on the rows `start` to `stop` of `batches`."""

    examples: Examples
    batches: jax.Array  # int32 [num_batches, B], indices into `examples`; [R, num_batches, B] for R replicas
    start: int
    stop: int


class DevicePipeline:
    """An input pipeline with all images on the device."""

    def __init__(self, examples: Examples, *, steps_per_call: int) -> None:
        self._examples = examples
        self._steps_per_call = steps_per_call
        self.num_examples = len(examples.labels)

    def calls(self, parts: list[jax.Array], *, first_step: int) -> Iterator[Call]:
        """Yields an epoch, from its step `first_step` on, as calls."""
        for batches, start, stop in _cut(parts, first_step, self._steps_per_call):
            yield Call(self._examples, batches, start, stop)

    def empty_calls(self, parts: list[jax.Array]) -> list[Call]:
        """Returns a call of no steps for each shape that `calls` yields, to compile with."""
        return [Call(self._examples, batches, 0, 0) for batches in parts]


# Takes indices [n]; returns their images [n, H, W, C] and labels [n].
Gather = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class HostPipeline:
    """An input pipeline that gathers the images of each call on the host while the call before it runs."""

    def __init__(self, gather: Gather, *, num_examples: int, image_shape: tuple[int, ...], steps_per_call: int) -> None:
        self._gather = gather
        self._image_shape = image_shape
        self._steps_per_call = steps_per_call
        self.num_examples = num_examples

    def calls(self, parts: list[jax.Array], *, first_step: int) -> Iterator[Call]:
        """Yields calls as `DevicePipeline.calls` does."""
        cuts = _cut(parts, first_step, self._steps_per_call)
        with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
            pending = [pool.submit(self._call, *cut) for cut in itertools.islice(cuts, 2)]
            while pending:
                call = pending.pop(0).result()
                pending += [pool.submit(self._call, *cut) for cut in itertools.islice(cuts, 1)]
                yield call

    def empty_calls(self, parts: list[jax.Array]) -> list[Call]:
        """Returns calls as `DevicePipeline.empty_calls` does."""
        return [self._call(batches, 0, 0) for batches in parts]

    def _call(self, batches: jax.Array, start: int, stop: int) -> Call:
        # Padded to the full number of rows, so that a call of fewer steps has the same shape: nothing is recompiled.
        steps, batch_size = min(self._steps_per_call, len(batches)), batches.shape[1]
        images = np.zeros((steps * batch_size, *self._image_shape), np.uint8)
        labels = np.zeros(steps * batch_size, np.int32)
        count = (stop - start) * batch_size
        if count:
            images[:count], labels[:count] = self._gather(np.asarray(batches[start:stop]).ravel())
        rows = jnp.arange(steps * batch_size, dtype=jnp.int32).reshape(steps, batch_size)
        return Call(Examples(jnp.asarray(images), jnp.asarray(labels)), rows, 0, stop - start)


def _cut(parts: list[jax.Array], first_step: int, steps_per_call: int) -> Iterator[tuple[jax.Array, int, int]]:
    for batches in parts:
        num_batches = batches.shape[-2]  # after the replicas, where there are several
        for start in range(max(first_step, 0), num_batches, steps_per_call):
            yield batches, start, min(start + steps_per_call, num_batches)
        first_step -= num_batches


Pipeline = DevicePipeline | HostPipeline

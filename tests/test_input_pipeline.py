"""The order of an epoch, and how it is cut into calls."""

import jax
import numpy as np
import pytest

from digits_jax import input_pipeline
from digits_jax.train_step import create_keys


def order(seed: int, epoch: int, num_examples: int = 60_000, batch_size: int = 64) -> list[np.ndarray]:
    key = create_keys(seed).order
    parts = input_pipeline.epoch_batches(key, epoch, num_examples=num_examples, batch_size=batch_size)
    return [np.asarray(part) for part in parts]


@pytest.mark.parametrize("batch_size", [1, 64, 1_000, 4_096, 60_000])
def test_an_epoch_touches_each_image_once(batch_size: int) -> None:
    parts = order(0, 0, batch_size=batch_size)
    rows = np.concatenate([part.ravel() for part in parts])
    np.testing.assert_array_equal(np.sort(rows), np.arange(60_000))


def test_the_posts_batches() -> None:
    assert [part.shape for part in order(0, 0)] == [(937, 64), (1, 32)]
    assert [part.shape for part in order(0, 0, 640)] == [(10, 64)]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def first(seed: int, epoch: int) -> list[int]:
        return order(seed, epoch)[0][0].tolist()

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(0, 1)
    assert first(0, 0) != first(1, 0)
    assert first(0, 0) != sorted(first(0, 0))


@pytest.mark.parametrize("first_step", range(8))
def test_calls_go_on_from_any_step(first_step: int) -> None:
    parts = [jax.numpy.arange(12).reshape(6, 2), jax.numpy.array([[12]])]
    steps = []
    for call in input_pipeline.calls(parts, first_step=first_step, steps_per_call=4):
        assert call.stop - call.start <= 4
        steps += call.batches[call.start : call.stop].tolist()
    assert steps == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12]][first_step:]

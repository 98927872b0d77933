"""The order of an epoch, and how it is cut into calls."""

import jax
import numpy as np
import pytest

from digits_jax import input_pipeline
from digits_jax.data import Examples
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


IMAGES = np.arange(13, dtype=np.uint8).reshape(13, 1, 1, 1)
LABELS = np.arange(13, dtype=np.uint8)


def create_feed(name: str, steps_per_call: int = 4) -> input_pipeline.Pipeline:
    if name == "device":
        examples = Examples(jax.numpy.asarray(IMAGES), jax.numpy.asarray(LABELS))
        return input_pipeline.DevicePipeline(examples, steps_per_call=steps_per_call)
    return input_pipeline.HostPipeline(
        lambda rows: (IMAGES[rows], LABELS[rows]),
        num_examples=13,
        image_shape=(1, 1, 1),
        steps_per_call=steps_per_call,
    )


@pytest.mark.parametrize("first_step", range(8))
@pytest.mark.parametrize("name", input_pipeline.IMAGES_ON)
def test_a_feed_goes_on_from_any_step(name: str, first_step: int) -> None:
    parts = [jax.numpy.arange(12).reshape(6, 2), jax.numpy.array([[12]])]
    steps = []
    for call in create_feed(name).calls(parts, first_step=first_step):
        assert call.stop - call.start <= 4
        for rows in call.batches[call.start : call.stop]:
            steps.append(call.examples.images[rows].ravel().tolist())
            assert call.examples.labels[rows].tolist() == steps[-1]
    assert steps == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12]][first_step:]


@pytest.mark.parametrize("name", input_pipeline.IMAGES_ON)
def test_empty_calls_have_every_shape_that_comes(name: str) -> None:
    def shapes(calls: list[input_pipeline.Call]) -> set:
        return {(call.examples.images.shape, call.batches.shape) for call in calls}

    parts = [jax.numpy.arange(12).reshape(6, 2), jax.numpy.array([[12]])]
    feed = create_feed(name)
    empty = feed.empty_calls(parts)
    assert shapes(empty) == shapes(list(feed.calls(parts, first_step=0)))
    assert all(call.start == call.stop for call in empty)


def test_an_error_while_gathering_reaches_the_training_loop() -> None:
    def broken(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise OSError("the disk is gone")

    feed = input_pipeline.HostPipeline(broken, num_examples=4, image_shape=(1, 1, 1), steps_per_call=1)
    with pytest.raises(OSError, match="the disk is gone"):
        list(feed.calls([jax.numpy.arange(4).reshape(2, 2)], first_step=0))


def test_a_stream_is_the_end_of_one_shuffle_and_the_beginning_of_the_next() -> None:
    def stream(seed: int) -> list[int]:
        return np.asarray(input_pipeline.stream_order(jax.random.key(seed), 100, batch_size=16)).tolist()

    def is_cut_at(place: int, order: list[int]) -> bool:
        return len(set(order[:place])) == place and len(set(order[place:])) == 100 - place

    streams = [stream(seed) for seed in range(40)]
    assert all(any(is_cut_at(place, order) for place in (4, 20, 36, 52, 68, 84, 100)) for order in streams)
    distinct = {len(set(order)) for order in streams}
    assert max(distinct) == 100  # a whole shuffle
    assert min(distinct) < 90
    assert stream(0) == stream(0)

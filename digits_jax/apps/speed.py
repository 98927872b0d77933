"""Times training on random pixels, and matrix products as the machine's peak: for `doctor` and the benchmark."""

import timeit
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from digits_jax import input_pipeline, parallel
from digits_jax.config import resolve
from digits_jax.data import Dataset
from digits_jax.experiment import Experiment, build
from digits_jax.metrics import Metrics
from digits_jax.train_step import create_keys

Pass = Callable[[], object]  # does a fixed amount of work and returns once it is finished
Timer = Callable[[int], float]  # repeats a pass so many times and returns the seconds of all


def product_size() -> int:
    """Returns the rows and columns of the matrices whose product gives the machine's peak."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def random_dataset(num_train: int, num_test: int) -> Dataset:
    """Returns random pixels and labels in MNIST's shape: speed does not depend on the content of the images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_train + num_test, 28, 28, 1), np.uint8)
    labels = random.integers(0, 10, num_train + num_test).astype(np.uint8)
    examples = (images[:num_train], labels[:num_train], images[num_train:], labels[num_train:])
    return Dataset.from_arrays(*examples, name="random", num_classes=10)


def build_experiment(config: ConfigDict, dataset: Dataset) -> Experiment:
    """Builds the experiment of a config that is not resolved yet, for all of its seeds at once."""
    return build(resolve(config, dataset), dataset, num_replicas=config.num_seeds)


def start_training(config: ConfigDict, dataset: Dataset) -> tuple[Experiment, Any]:
    """Builds the experiment; also returns the initial states of its seeds, zero metrics and an epoch's batches."""
    experiment, num_examples = build_experiment(config, dataset), len(dataset.arrays.train_labels)
    zero, starts = Metrics.zero(experiment.config.metrics), []
    for seed in range(config.seed, config.seed + config.num_seeds):
        order = create_keys(seed).order
        batches = input_pipeline.epoch_batches(order, 0, num_examples=num_examples, batch_size=config.batch_size)
        starts.append((experiment.create_state(np.uint32(seed)), zero, batches))
    return experiment, parallel.stack(starts)


def training_pass(config: ConfigDict, dataset: Dataset) -> Pass:
    """Returns a function that trains for the next epoch as a run does and returns the new state."""
    experiment, (state, zero, batches) = start_training(config, dataset)

    def train_epoch() -> object:
        nonlocal state
        metrics = zero
        for call in experiment.pipeline.calls(batches, first_step=0):
            state, metrics = experiment.train_steps(state, metrics, *call)
        return jax.block_until_ready((state, metrics))[0]

    return train_epoch


def matrix_product() -> Pass:
    """Returns a function that multiplies two square float32 matrices, the best this machine can do."""
    a, b = (jax.random.normal(jax.random.key(i), (product_size(), product_size())) for i in range(2))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, b))


def timer(run: Pass) -> Timer:
    """Returns the timer of a pass in this process."""
    return lambda repetitions: timeit.timeit(run, number=repetitions)


def time_in_turns(timers: Mapping[str, Timer], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Measures the seconds of each pass, round by round, so that a drift of the machine's speed slows all of them.

    A measurement repeats its pass for about `seconds`. The first pass, which compiles, is not counted; the second sets
    the number of repetitions.
    """
    repetitions = {}
    for name, time in timers.items():
        time(1)
        repetitions[name] = max(1, round(seconds / time(1)))
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, time in timers.items():
            times[name].append(time(repetitions[name]) / repetitions[name])
    return times

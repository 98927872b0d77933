"""Times training on random pixels, and matrix products as the machine's peak: for `doctor` and the benchmark."""

import timeit
from collections.abc import Callable, Mapping

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

PRODUCT_SIZE = 2048  # rows and columns of the matrices whose product gives the machine's peak


def random_dataset(num_train: int, num_test: int) -> Dataset:
    """Returns random pixels and labels in MNIST's shape: speed does not depend on the content of the images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_train + num_test, 28, 28, 1), np.uint8)
    labels = random.integers(0, 10, num_train + num_test).astype(np.uint8)
    examples = (images[:num_train], labels[:num_train], images[num_train:], labels[num_train:])
    return Dataset.from_arrays(*examples, name="random", num_classes=10)


def build_experiment(config: ConfigDict, dataset: Dataset) -> Experiment:
    """Builds the experiment of a config that is not resolved yet."""
    return build(resolve(config, dataset), dataset)


def training_pass(config: ConfigDict, dataset: Dataset) -> Pass:
    """Returns a function that trains for the next epoch as a run does and returns the new state."""
    experiment = build_experiment(config, dataset)
    batches = input_pipeline.epoch_batches(
        create_keys(config.seed).order, 0, num_examples=len(dataset.arrays.train_labels), batch_size=config.batch_size
    )
    start = experiment.create_state(np.uint32(config.seed))
    state, zero, batches = parallel.stack([(start, Metrics.zero(experiment.config.metrics), batches)])

    def train_epoch() -> object:
        nonlocal state
        metrics = zero
        for call in experiment.pipeline.calls(batches, first_step=0):
            state, metrics = experiment.train_steps(state, metrics, *call)
        return jax.block_until_ready((state, metrics))[0]

    return train_epoch


def matrix_product() -> Pass:
    """Returns a function that multiplies two square float32 matrices, the best this machine can do."""
    a, b = (jax.random.normal(jax.random.key(i), (PRODUCT_SIZE, PRODUCT_SIZE)) for i in range(2))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, b))


def time_in_turns(passes: Mapping[str, Pass], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Measures the seconds of each pass, round by round, so that a drift of the machine's speed slows all of them.

    A measurement repeats its pass for about `seconds`. The first pass, which compiles, is not counted; the second sets
    the number of repetitions.
    """
    repetitions = {}
    for name, run in passes.items():
        run()
        repetitions[name] = max(1, round(seconds / timeit.timeit(run, number=1)))
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, run in passes.items():
            times[name].append(timeit.timeit(run, number=repetitions[name]) / repetitions[name])
    return times

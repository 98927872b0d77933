"""What a resolved config and its data become: the model, the compiled steps, what is scored and when."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import FrozenConfigDict

from digits_jax import datasets, input_pipeline, models, optimizer
from digits_jax.augment import Augment, create_augment
from digits_jax.metrics import Metrics
from digits_jax.train_step import (
    Examples,
    Keys,
    TrainState,
    TrainSteps,
    create_keys,
    create_train_state,
    make_eval_steps,
    make_train_steps,
)

# By the prefix of its metrics, what scores a state on a set of images.
Evaluations = dict[str, Callable[[TrainState], Metrics]]


class Experiment(NamedTuple):
    """What a resolved config and its data become."""

    config: FrozenConfigDict
    model: nn.Module
    keys: Keys
    feed: input_pipeline.Feed
    schedule: optax.Schedule
    steps_per_epoch: int
    num_epochs: int
    train_steps: TrainSteps
    after_each_epoch: Evaluations
    at_the_end: Evaluations
    initial_state: TrainState

    @property
    def score_key(self) -> str:
        """The metric that the best epoch is selected by."""
        return f"{next(iter(self.after_each_epoch))}/accuracy"


def build(config: FrozenConfigDict, dataset: datasets.Dataset) -> Experiment:
    """Puts the data on the device and compiles nothing yet."""
    arrays = dataset.arrays
    model = models.create_model(config.model, dataset.num_classes)
    epoch_steps = optimizer.steps_per_epoch(len(arrays.train_labels), config.batch_size)
    tx = optimizer.create_optimizer(config, epoch_steps)
    keys = create_keys(config.seed)
    augment = create_augment(config.augment)
    after_each_epoch, at_the_end = _evaluations(config, dataset, model, keys)
    return Experiment(
        config=config,
        model=model,
        keys=keys,
        feed=_create_feed(config, dataset),
        schedule=optimizer.create_schedule(config, epoch_steps),
        steps_per_epoch=epoch_steps,
        num_epochs=sum(config.epochs),
        train_steps=make_train_steps(
            model=model,
            tx=tx,
            augment=augment,
            keys=keys,
            microbatch_size=config.microbatch_size or _default_microbatch_size(config),
        ),
        after_each_epoch=after_each_epoch,
        at_the_end=at_the_end,
        initial_state=create_train_state(model, tx, init_key=keys.init, image_shape=dataset.image_shape),
    )


def _default_microbatch_size(config: FrozenConfigDict) -> int:
    """What fits a CPU's cache; other devices are fastest with whole batches."""
    return 64 if jax.default_backend() == "cpu" else config.batch_size


def _create_feed(config: FrozenConfigDict, dataset: datasets.Dataset) -> input_pipeline.Feed:
    arrays, steps_per_call = dataset.arrays, config.steps_per_call
    if config.dataset.feed == "device":
        return input_pipeline.DeviceFeed(arrays.train_images, arrays.train_labels, steps_per_call=steps_per_call)
    return input_pipeline.HostFeed(
        datasets.train_gather(dataset),
        num_examples=len(arrays.train_labels),
        image_shape=dataset.image_shape,
        steps_per_call=steps_per_call,
    )


def _on_device(images: np.ndarray, labels: np.ndarray) -> Examples:
    return Examples(jnp.asarray(images), jnp.asarray(labels, jnp.int32))


def _evaluations(
    config: FrozenConfigDict, dataset: datasets.Dataset, model: nn.Module, keys: Keys
) -> tuple[Evaluations, Evaluations]:
    """What is scored after each epoch, and what only at the end: the test images, where others select the epoch."""

    def on(examples: Examples, augment: Augment) -> Callable[[TrainState], Metrics]:
        eval_steps = make_eval_steps(model=model, batch_size=config.eval_batch_size, augment=augment)

        def evaluate(state: TrainState) -> Metrics:
            key = jax.random.fold_in(keys.test_augment, state.step)
            return eval_steps(state.params, state.batch_stats, examples, key)

        return evaluate

    def untouched(key: jax.Array, images: jax.Array) -> jax.Array:
        return images

    test_examples = _on_device(dataset.arrays.test_images, dataset.arrays.test_labels)
    test = {"test": on(test_examples, untouched)}
    if config.augment.test:
        test["test_augmented"] = on(test_examples, create_augment(config.augment))
    if not len(dataset.validation_labels):
        return test, {}
    validation_examples = _on_device(dataset.validation_images, dataset.validation_labels)
    return {"validation": on(validation_examples, untouched)}, test

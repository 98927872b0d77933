"""What a resolved config and its data become: the model, the compiled steps, what is scored and when."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import averaging, input_pipeline, models, optimizer
from digits_jax.augment import Augment, create_augment, create_test_augment
from digits_jax.data import Dataset, open_split
from digits_jax.losses import create_loss
from digits_jax.metrics import Metrics
from digits_jax.ops import compilation, conv
from digits_jax.parallel import replicas
from digits_jax.parallel.mesh import create_mesh, put
from digits_jax.train_step import (
    Examples,
    Order,
    TrainState,
    TrainSteps,
    create_train_state,
    each_once,
    make_eval_steps,
    make_train_steps,
)

# By the prefix of its metrics, what scores a state on a set of N images: the metrics, and which are wrong, bool [N].
Evaluations = dict[str, Callable[[TrainState], tuple[Metrics, jax.Array]]]


class Experiment(NamedTuple):
    """What a resolved config and its data become; the steps and evaluations of several replicas take their stack."""

    config: FrozenConfigDict
    model: nn.Module
    feed: input_pipeline.Feed
    schedule: optax.Schedule
    steps_per_epoch: int
    create_state: Callable[[jax.Array | np.uint32], TrainState]
    train_steps: TrainSteps
    before_scoring: Callable[[TrainState], TrainState] | None  # with averaged weights: gives them batch statistics
    after_each_epoch: Evaluations
    at_the_end: Evaluations

    @property
    def num_epochs(self) -> int:
        """Of a run that is not stopped early."""
        return sum(self.config.epochs)

    @property
    def initial_state(self) -> TrainState:
        return self.create_state(np.uint32(self.config.seed))


def build(config: FrozenConfigDict, dataset: Dataset, *, num_replicas: int = 1) -> Experiment:
    """Puts the data on the device and compiles nothing yet.

    Configs that differ in their seed only share their compiled programs, and all on one dataset its images.

    Args:
      config: resolved.
      dataset: its data.
      num_replicas: how many states, stacked, the steps and evaluations take; see `replicas.py`.
    """
    any_seed = ConfigDict(config.to_dict())
    any_seed.seed = 0
    any_seed.model.conv = conv.resolve(config.model.conv, stacked=num_replicas > 1)
    return _build(FrozenConfigDict(any_seed), dataset, num_replicas)._replace(config=config)


@functools.lru_cache(maxsize=128)
def _build(config: FrozenConfigDict, dataset: Dataset, num_replicas: int) -> Experiment:
    model = models.create_model(config.model, dataset.num_classes)
    epoch_steps = optimizer.steps_per_epoch(len(dataset.arrays.train_labels), config.batch_size)
    tx = optimizer.create_optimizer(config, epoch_steps)
    after_each_epoch, at_the_end = _evaluations(config, dataset, model, num_replicas)
    return Experiment(
        config=config,
        model=model,
        feed=_create_feed(config, dataset, num_replicas),
        schedule=optimizer.create_schedule(config, epoch_steps),
        steps_per_epoch=epoch_steps,
        create_state=compilation.jit(functools.partial(create_train_state, model, tx, image_shape=dataset.image_shape)),
        train_steps=make_train_steps(
            model=model,
            tx=tx,
            augment=create_augment(config.augment),
            loss=create_loss(config),
            microbatch_size=microbatch_size(config),
            mesh=create_mesh(num_replicas),
            stacked=num_replicas > 1,
        ),
        before_scoring=_create_before_scoring(config, dataset, num_replicas),
        after_each_epoch=after_each_epoch,
        at_the_end=at_the_end,
    )


def microbatch_size(config: FrozenConfigDict) -> int:
    """`config.microbatch_size`, or as many images as is fastest: on a CPU so many that a network's activations fit its
    cache, else whole batches."""
    if config.microbatch_size:
        return config.microbatch_size
    return 64 if jax.default_backend() == "cpu" and config.model.name != "linear" else config.batch_size


def _create_feed(config: FrozenConfigDict, dataset: Dataset, num_replicas: int) -> input_pipeline.Feed:
    if config.dataset.feed == "device":
        examples = _on_device(dataset, "train", num_replicas)
        return input_pipeline.DeviceFeed(examples, steps_per_call=config.steps_per_call)
    return input_pipeline.HostFeed(
        open_split(dataset.folder, "train"),
        num_examples=len(dataset.arrays.train_labels),
        image_shape=dataset.image_shape,
        steps_per_call=config.steps_per_call,
    )


@functools.lru_cache(maxsize=6)
def _on_device(dataset: Dataset, split: str, num_replicas: int) -> Examples:
    images, labels = dataset.split(split)
    return put(Examples(jnp.asarray(images), jnp.asarray(labels, jnp.int32)), create_mesh(num_replicas))


def _create_before_scoring(
    config: FrozenConfigDict, dataset: Dataset, num_replicas: int
) -> Callable[[TrainState], TrainState] | None:
    if not config.average_decay or config.model.batch_norm == "none":
        return None
    model = averaging.create_statistics_model(config.model, dataset.num_classes)
    images = dataset.split("train")[0][: averaging.NUM_IMAGES]
    size = config.batch_size
    batches = images[: len(images) // size * size].reshape(-1, size, *dataset.image_shape)

    def estimate(state: TrainState, batches: jax.Array) -> TrainState:
        return state.replace(batch_stats=averaging.estimate_batch_stats(model, state.scored["params"], batches))

    if num_replicas > 1:
        estimate = jax.vmap(estimate, in_axes=(0, None), spmd_axis_name="seed")
    estimate = compilation.jit(estimate)
    on_device = put(jnp.asarray(batches), create_mesh(num_replicas))
    return lambda state: estimate(state, on_device)


class Scores(NamedTuple):
    """What evaluation says of one state."""

    metrics: dict[str, float]
    wrong: dict[str, list[int]]  # by prefix, the indices of the images that are classified wrongly


def evaluate(evaluations: Evaluations, states: Sequence[TrainState]) -> list[Scores]:
    """Scores each state; several are evaluated at once."""
    scores = [Scores({}, {}) for _ in states]
    for prefix, on in evaluations.items():
        of_all = on(replicas.stack(states))
        for found, (metrics, wrong) in zip(scores, replicas.unstack(of_all, len(states)), strict=True):
            found.metrics.update(metrics.compute(prefix))
            found.wrong[prefix] = np.flatnonzero(wrong).tolist()
    return scores


def _evaluations(
    config: FrozenConfigDict, dataset: Dataset, model: nn.Module, num_replicas: int
) -> tuple[Evaluations, Evaluations]:
    """What is scored after each epoch, and what only at the end: the test images, where others select the epoch."""

    def on(split: str, augment: Augment, order: Order = each_once) -> Callable[[TrainState], tuple[Metrics, jax.Array]]:
        eval_steps = make_eval_steps(
            model=model,
            batch_size=config.eval_batch_size,
            augment=augment,
            order=order,
            views=config.test_views,
            mesh=create_mesh(num_replicas),
            stacked=num_replicas > 1,
        )
        return lambda state: eval_steps(state, _on_device(dataset, split, num_replicas))

    def untouched(key: jax.Array, images: jax.Array) -> jax.Array:
        return images

    test = {"test": on("test", untouched)}
    test_augment = create_test_augment(config.augment) if config.augment.test else untouched
    if config.augment.test:
        test["test_augmented"] = on("test", test_augment)
    if config.test_stream:
        order = functools.partial(input_pipeline.stream_order, batch_size=config.eval_batch_size)
        test["test_stream"] = on("test", test_augment, order)
    if not len(dataset.validation_labels):
        return test, {}
    return {"validation": on("validation", untouched)}, test

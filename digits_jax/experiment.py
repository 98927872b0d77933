"""An experiment: a resolved config and its data, built into a model, compiled steps and evaluations."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import FrozenConfigDict

from digits_jax import data, input_pipeline, models, ops, optimizer, parallel
from digits_jax.augment import create_augment
from digits_jax.averaging import create_statistics_update
from digits_jax.data import Examples
from digits_jax.evaluate import Evaluations, create_evaluations
from digits_jax.losses import create_loss
from digits_jax.train_step import Recipe, TrainState, TrainSteps, create_train_state, make_train_steps


class Experiment(NamedTuple):
    """A config and its data, built. Steps and evaluations of several seeds take their states stacked."""

    config: FrozenConfigDict
    model: nn.Module
    pipeline: input_pipeline.Pipeline
    schedule: optax.Schedule
    steps_per_epoch: int
    create_state: Callable[[np.uint32], TrainState]  # takes a seed
    train_steps: TrainSteps
    update_statistics: Callable[[TrainState], TrainState] | None  # before averaged weights are evaluated
    after_each_epoch: Evaluations
    at_the_end: Evaluations


def build(
    config: FrozenConfigDict, dataset: data.Dataset, *, num_replicas: int = 1, pretrained: Any = None
) -> Experiment:
    """Builds an experiment; puts the data on the device and compiles nothing yet.

    Args:
      config: resolved; its seed plays no part, so that all seeds share one experiment and its compiled programs.
      dataset: its data.
      num_replicas: how many states, stacked, the steps and evaluations take.
      pretrained: variables that the initial state takes where they fit, see `create_train_state`.
    """
    mesh, stacked = parallel.create_mesh(num_replicas), num_replicas > 1

    @functools.cache
    def on_device(split: str) -> Examples:
        images, labels = dataset.split(split)
        return parallel.put(Examples(jnp.asarray(images), jnp.asarray(labels, jnp.int32)), mesh)

    epoch_steps = optimizer.steps_per_epoch(len(dataset.arrays.train_labels), config.batch_size)
    recipe = create_recipe(config, dataset.num_classes, epoch_steps)
    after_each_epoch, at_the_end = create_evaluations(config, recipe.model, on_device, mesh=mesh, stacked=stacked)
    create_state = functools.partial(create_train_state, recipe, image_shape=dataset.image_shape, pretrained=pretrained)
    pipeline: input_pipeline.Pipeline
    if config.execution.images_on == "device":
        pipeline = input_pipeline.DevicePipeline(on_device("train"), steps_per_call=config.execution.steps_per_call)
    else:
        sizes = {"num_examples": len(dataset.arrays.train_labels), "steps_per_call": config.execution.steps_per_call}
        pipeline = input_pipeline.HostPipeline(dataset.open_train(), image_shape=dataset.image_shape, **sizes)
    return Experiment(
        config=config,
        model=recipe.model,
        pipeline=pipeline,
        schedule=optimizer.create_schedule(config, epoch_steps),
        steps_per_epoch=epoch_steps,
        create_state=ops.jit(create_state),
        train_steps=make_train_steps(recipe, mesh=mesh, kernels=config.execution.kernels, stacked=stacked),
        update_statistics=create_statistics_update(config, recipe.model, dataset, mesh=mesh, stacked=stacked),
        after_each_epoch=after_each_epoch,
        at_the_end=at_the_end,
    )


def create_recipe(config: FrozenConfigDict, num_classes: int, epoch_steps: int) -> Recipe:
    """Builds the recipe of a training step from a resolved config."""
    # On a CPU, the activations of 64 images fit its cache; elsewhere whole batches are fastest.
    default_size = 64 if jax.default_backend() == "cpu" and config.model.name != "linear" else config.batch_size
    return Recipe(
        model=models.create_model(config.model, num_classes),
        tx=optimizer.create_optimizer(config, epoch_steps),
        augment=create_augment(config.augment, num_classes),
        loss=create_loss(config.loss),
        microbatch_size=config.execution.microbatch_size or default_size,
        freeze=config.freeze,
        metrics=config.metrics,
    )

"""The moving average of the weights, and the batch statistics that evaluation of averaged weights needs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from digits_jax import data, ops, parallel

_STATISTICS_IMAGES = 10_000  # training images that batch statistics are estimated from


class AverageState(NamedTuple):
    """The state of `average_weights`; `averaged_params` looks for its field `average` by name."""

    average: Any
    step: jax.Array  # int32 [], steps taken


def average_weights(decay: float) -> optax.GradientTransformation:
    """Keeps a moving average of the weights that the transformations before it lead to, and changes no update.

    Weights under a positive learning rate are noisy; their average is less so (Polyak & Juditsky 1992).

    Args:
      decay: in [0, 1). In the first steps it is min(decay, (1 + step) / (10 + step)), so that the initial weights are
        soon forgotten (as in `tf.train.ExponentialMovingAverage`).
    """

    def init(params: Any) -> AverageState:
        return AverageState(params, jnp.zeros((), jnp.int32))

    def update(updates: Any, state: AverageState, params: Any) -> tuple[Any, AverageState]:
        stay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, 1 - stay)
        return updates, AverageState(average, state.step + 1)

    return optax.GradientTransformation(init, update)


def averaged_params(params: Any, opt_state: Any) -> Any:
    """Returns the average of the weights where the optimizer keeps one, else the weights themselves."""
    return optax.tree.get(opt_state, "average", params)


def estimate_batch_stats(model: nn.Module, params: Any, batches: jax.Array) -> Any:
    """Returns the means over image batches `[N, B, H, W, C]` of each batch normalization's batch mean and variance.

    Running statistics are those of the latest weights; averaged weights need statistics of their own, estimated from
    training images (Izmailov et al. 2018, section 3.2), without dropout. Training does not read them.
    """

    def without_dropout(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm):
            object.__setattr__(context.module, "momentum", 0.0)  # statistics become those of the batch
        return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)

    init = functools.partial(model.init, jax.random.key(0), train=False)
    shapes = jax.eval_shape(init, batches[0])["batch_stats"]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(sums: Any, images: jax.Array) -> tuple[Any, None]:
        with nn.intercept_methods(without_dropout):
            variables = {"params": params, "batch_stats": zeros}
            _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return jax.tree.map(jnp.add, sums, updates["batch_stats"]), None

    sums, _ = lax.scan(add, zeros, batches)
    return jax.tree.map(lambda leaf: leaf / len(batches), sums)


def create_statistics_update(
    config: FrozenConfigDict, model: nn.Module, dataset: data.Dataset, *, mesh: Mesh, stacked: bool
) -> Callable[[Any], Any] | None:
    """Builds the update of a training state's batch statistics from training images, before it is evaluated.

    Returns None where the weights are not averaged. Without batch statistics, it returns the state as it is.
    """
    if not config.average_decay:
        return None
    size = config.batch_size
    images = dataset.arrays.train_images[:_STATISTICS_IMAGES]
    images = images[: len(images) // size * size].reshape(-1, size, *dataset.image_shape)
    batches = parallel.put(jnp.asarray(images), mesh)

    def estimate(state: Any, batches: jax.Array) -> Any:
        with ops.using(config.execution.kernels, vmapped=stacked):
            return state.replace(batch_stats=estimate_batch_stats(model, state.eval_variables["params"], batches))

    if stacked:
        estimate = jax.vmap(estimate, in_axes=(0, None), spmd_axis_name="seed")
    estimate = ops.jit(estimate)
    return lambda state: estimate(state, batches) if state.batch_stats else state

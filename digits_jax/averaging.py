"""The moving average of a run's weights, which is scored instead of the latest ones.

Weights that a rate still moves about are noisy; their average lies in the middle (Polyak & Juditsky 1992). The running
statistics of batch normalisation are no weights: those of the latest weights do not fit the average, and neither does
their own average. They are estimated anew, from training images, before the average is scored (Izmailov et al. 2018,
section 3.2). Training does not read them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from ml_collections import ConfigDict

from digits_jax.models import create_model

NUM_IMAGES = 10_000  # of the training images, to estimate batch statistics from


class AverageState(NamedTuple):
    """Of `average_weights`; the name of the field is what `scored` looks for."""

    average: Any
    step: jax.Array  # int32 [], steps taken


def average_weights(decay: float) -> optax.GradientTransformation:
    """Follows the weights that the transformations before it lead to, and changes none.

    Args:
      decay: in [0, 1). The first steps count for more, by min(decay, (1 + step) / (10 + step)), so that the initial
        weights are soon forgotten (as `tf.train.ExponentialMovingAverage` has it).
    """

    def init(params: Any) -> AverageState:
        return AverageState(params, jnp.zeros((), jnp.int32))

    def update(updates: Any, state: AverageState, params: Any) -> tuple[Any, AverageState]:
        stay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, 1 - stay)
        return updates, AverageState(average, state.step + 1)

    return optax.GradientTransformation(init, update)


def scored(params: Any, batch_stats: Any, opt_state: Any) -> dict[str, Any]:
    """The variables to score: with the average of the weights in their place, where the optimizer's state has one."""
    return {"params": optax.tree.get(opt_state, "average", params), "batch_stats": batch_stats}


def create_statistics_model(model_config: ConfigDict, num_classes: int) -> nn.Module:
    """The model with batch statistics that are those of the latest batch, and without dropout, as it is scored."""
    no_dropout = {"hidden_dropout": 0.0, "block_dropout": (0.0,) * len(model_config.block_dropout)}
    return create_model(ConfigDict({**model_config.to_dict(), **no_dropout, "bn_momentum": 0.0}), num_classes)


def estimate_batch_stats(model: nn.Module, params: Any, batches: jax.Array) -> Any:
    """The means over batches of each batch's mean and variance, in each batch normalisation.

    Args:
      model: of `create_statistics_model`.
      params: the weights.
      batches: of images, `[N, B, H, W, C]`.
    """
    init = partial(model.init, jax.random.key(0), train=False)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(init, batches[0])["batch_stats"]
    )

    def add(sums: Any, images: jax.Array) -> tuple[Any, None]:
        _, updates = model.apply({"params": params, "batch_stats": zeros}, images, train=True, mutable=["batch_stats"])
        return jax.tree.map(jnp.add, sums, updates["batch_stats"]), None

    sums, _ = lax.scan(add, zeros, batches)
    return jax.tree.map(lambda leaf: leaf / len(batches), sums)

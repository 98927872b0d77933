"""Learning-rate schedules, optimizers, and the moving average of the weights."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns the number of steps that see every example once; the last batch may be short."""
    return math.ceil(num_examples / batch_size)


def piecewise_constant(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Builds a schedule of `learning_rates[i]` for `epochs[i]` epochs."""
    rates = config.learning_rates
    boundaries, end = {}, 0
    for previous, rate, epochs in zip(rates, rates[1:], config.epochs, strict=False):
        end += epochs * epoch_steps
        # optax's factors accumulate, and the step with this number is the first one scaled.
        boundaries[end] = rate / previous
    return optax.piecewise_constant_schedule(rates[0], boundaries)


def cosine(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Builds a decay to zero along half a cosine (Loshchilov & Hutter 2017, without restarts)."""
    return optax.cosine_decay_schedule(config.learning_rates[0], sum(config.epochs) * epoch_steps)


def triangle(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Builds a linear warm-up from zero during `warmup_fraction` of the steps, then a linear decay to zero."""
    steps = sum(config.epochs) * epoch_steps
    peak = max(1, round(config.warmup_fraction * steps))
    rate = config.learning_rates[0]
    up = optax.linear_schedule(rate / peak, rate, max(1, peak - 1))
    down = optax.linear_schedule(rate, 0.0, steps - peak)
    return optax.join_schedules([up, down], [peak])


def one_cycle(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Builds a warm-up from 1/25 of the peak in 30% of the steps, then a decay to 1/250,000 (Smith & Topin 2018)."""
    return optax.cosine_onecycle_schedule(sum(config.epochs) * epoch_steps, config.learning_rates[0])


# All but the first have one rate for all epochs, their peak.
SCHEDULES: dict[str, Callable[[ConfigDict, int], optax.Schedule]] = {
    "piecewise_constant": piecewise_constant,
    "cosine": cosine,
    "triangle": triangle,
    "one_cycle": one_cycle,
}


OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "sgd": optax.sgd,  # p - rate * gradient
    "nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),  # Sutskever et al. 2013
    "adam": optax.adam,  # Kingma & Ba 2015
}


def create_schedule(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Builds the configured schedule: the learning rate as a function of the number of steps already taken."""
    return SCHEDULES[config.schedule](config, epoch_steps)


def create_optimizer(config: ConfigDict, epoch_steps: int) -> optax.GradientTransformation:
    """Builds the configured optimizer, with weight averaging if `average_decay` is set."""
    tx = OPTIMIZERS[config.optimizer](create_schedule(config, epoch_steps))
    return optax.chain(tx, average_weights(config.average_decay)) if config.average_decay else tx


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

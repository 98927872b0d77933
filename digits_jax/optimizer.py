"""The learning rate's schedule, from epochs to steps, and the one optax chain."""

import math

import optax
from ml_collections import ConfigDict


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Steps that see every example once; the last one may be short."""
    return math.ceil(num_examples / batch_size)


def create_schedule(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """The piecewise-constant learning rate: `learning_rates[i]` for `epochs[i]` epochs.

    Args:
      config: reads `learning_rates` and `epochs`, of equal length.
      epoch_steps: steps per epoch.

    Returns:
      The learning rate as a function of the number of steps already taken.
    """
    rates = config.learning_rates
    boundaries, end = {}, 0
    for previous, rate, epochs in zip(rates, rates[1:], config.epochs, strict=False):
        end += epochs * epoch_steps
        # optax's factors accumulate, and the step with this number is the first one scaled.
        boundaries[end] = rate / previous
    return optax.piecewise_constant_schedule(rates[0], boundaries)


def create_optimizer(config: ConfigDict, epoch_steps: int) -> optax.GradientTransformation:
    """Plain stochastic gradient descent, p - rate * gradient, under `create_schedule`."""
    return optax.sgd(create_schedule(config, epoch_steps))

"""The learning rate's schedule, from epochs to steps, and the optimizer: two tables that a config chooses from."""

import functools
import math
from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from digits_jax.averaging import average_weights


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Steps that see every example once; the last one may be short."""
    return math.ceil(num_examples / batch_size)


def piecewise_constant(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """`learning_rates[i]` for `epochs[i]` epochs."""
    rates = config.learning_rates
    boundaries, end = {}, 0
    for previous, rate, epochs in zip(rates, rates[1:], config.epochs, strict=False):
        end += epochs * epoch_steps
        # optax's factors accumulate, and the step with this number is the first one scaled.
        boundaries[end] = rate / previous
    return optax.piecewise_constant_schedule(rates[0], boundaries)


def cosine(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """From the one rate down to zero along half a cosine (Loshchilov & Hutter 2017, without restarts)."""
    return optax.cosine_decay_schedule(config.learning_rates[0], sum(config.epochs) * epoch_steps)


def linear(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Up from zero during 20 % of the steps to the one rate, then down to zero."""
    steps = sum(config.epochs) * epoch_steps
    peak = max(1, round(0.2 * steps))
    rate = config.learning_rates[0]
    up, down = (
        optax.linear_schedule(rate / peak, rate, max(1, peak - 1)),
        optax.linear_schedule(rate, 0.0, steps - peak),
    )
    return optax.join_schedules([up, down], [peak])


def one_cycle(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Up from a 25th of the one rate during 30 % of the steps, then down to a 250,000th (Smith & Topin 2018)."""
    return optax.cosine_onecycle_schedule(sum(config.epochs) * epoch_steps, config.learning_rates[0])


# All but the first have one rate, their highest, for all epochs.
SCHEDULES: dict[str, Callable[[ConfigDict, int], optax.Schedule]] = {
    "piecewise_constant": piecewise_constant,
    "cosine": cosine,
    "linear": linear,
    "one_cycle": one_cycle,
}


def muon(rate: optax.Schedule) -> optax.GradientTransformation:
    """Kernels move along their momentum made orthogonal (Jordan et al. 2024), the rest by Adam with the same rate.

    A convolution's kernel `[kh, kw, C, O]` is the matrix `[kh kw C, O]` by which it multiplies.
    """

    def matrix(p: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        return optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1) if p.ndim > 1 else None

    return optax.contrib.muon(rate, muon_weight_dimension_numbers=functools.partial(jax.tree.map, matrix))


OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "sgd": optax.sgd,  # p - rate * gradient
    "nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),  # Sutskever et al. 2013
    "adam": optax.adam,  # Kingma & Ba 2015
    "muon": muon,
}


def create_schedule(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """What `config.schedule` names.

    Args:
      config: reads `schedule`, `learning_rates` and `epochs`, of equal length.
      epoch_steps: steps per epoch.

    Returns:
      The learning rate as a function of the number of steps already taken.
    """
    return SCHEDULES[config.schedule](config, epoch_steps)


def create_optimizer(config: ConfigDict, epoch_steps: int) -> optax.GradientTransformation:
    """What `config.optimizer` names, under `create_schedule`; its state has the average of the weights, if any."""
    tx = OPTIMIZERS[config.optimizer](create_schedule(config, epoch_steps))
    return optax.chain(tx, average_weights(config.average_decay)) if config.average_decay else tx

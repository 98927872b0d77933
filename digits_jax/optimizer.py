"""Learning-rate schedules and optimizers."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from digits_jax.averaging import average_weights
from digits_jax.bounds import FLAG, POSITIVE, PROBABILITY, number
from digits_jax.errors import ConfigError
from digits_jax.tables import Field, Table
from digits_jax.transfer import is_frozen


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns the number of steps that see every example once; the last batch may be short."""
    return math.ceil(num_examples / batch_size)


def piecewise_constant(config: ConfigDict, epoch_steps: int, *, warmup_fraction: float = 0.0) -> optax.Schedule:
    """Builds a schedule of `learning_rates[i]` for `epochs[i]` epochs; a warm-up scales them, rising from 0 to 1."""
    rates = config.learning_rates
    boundaries, end = {}, 0
    for previous, rate, epochs in zip(rates, rates[1:], config.epochs, strict=False):
        end += epochs * epoch_steps
        # optax's factors accumulate, and the step with this number is the first one scaled.
        boundaries[end] = rate / previous
    schedule = optax.piecewise_constant_schedule(rates[0], boundaries)
    warmup = round(warmup_fraction * sum(config.epochs) * epoch_steps)
    return (lambda step: jnp.minimum((step + 1) / warmup, 1) * schedule(step)) if warmup else schedule


def cosine(config: ConfigDict, epoch_steps: int, *, warmup_fraction: float = 0.0) -> optax.Schedule:
    """Builds a decay to zero along half a cosine (Loshchilov & Hutter 2017, without restarts), after a warm-up."""
    return _after_warmup(optax.cosine_decay_schedule, config, epoch_steps, warmup_fraction)


def linear(config: ConfigDict, epoch_steps: int, *, warmup_fraction: float = 0.2) -> optax.Schedule:
    """Builds a linear decay to zero, after a warm-up."""
    return _after_warmup(
        lambda rate, steps: optax.linear_schedule(rate, 0.0, steps), config, epoch_steps, warmup_fraction
    )


def _after_warmup(
    decay: Callable[[float, int], optax.Schedule], config: ConfigDict, epoch_steps: int, fraction: float
) -> optax.Schedule:
    """Precedes a decay, from a rate in a number of steps, by a linear warm-up from rate / steps to the rate."""
    steps, rate = sum(config.epochs) * epoch_steps, config.learning_rates[0]
    warmup = round(fraction * steps)
    if not warmup:
        return decay(rate, steps)
    up = optax.linear_schedule(rate / warmup, rate, max(1, warmup - 1))
    return optax.join_schedules([up, decay(rate, max(1, steps - warmup))], [warmup])


def one_cycle(config: ConfigDict, epoch_steps: int, *, warmup_fraction: float = 0.3) -> optax.Schedule:
    """Builds a warm-up from 1/25 of the peak, then a decay to 1/250,000 of it (Smith & Topin 2018)."""
    steps = sum(config.epochs) * epoch_steps
    return optax.cosine_onecycle_schedule(steps, config.learning_rates[0], warmup_fraction)


# Takes the config and the steps per epoch. All but the first have one rate for all epochs, their peak.
SCHEDULES = Table(
    {"piecewise_constant": piecewise_constant, "cosine": cosine, "linear": linear, "one_cycle": one_cycle},
    {"warmup_fraction": Field(float, number(0, 1), "fraction of the steps before the peak")},
)


def sgd(
    learning_rate: optax.Schedule,
    *,
    momentum: float | None = None,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Builds stochastic gradient descent; weight decay is added to the gradient, as an L2 penalty."""
    if nesterov and not momentum:
        raise ConfigError("config.optimizer.nesterov is True: expected config.optimizer.momentum, which it acts on")
    tx = optax.sgd(learning_rate, momentum, nesterov)
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), tx) if weight_decay else tx


# Takes the schedule; those with weight decay have a parameter `mask` or `weight_decay_mask` for the decayed parameters.
OPTIMIZERS = Table(
    {
        "sgd": sgd,
        "nesterov": functools.partial(sgd, momentum=0.9, nesterov=True),  # Sutskever et al. 2013
        "adam": optax.adam,  # Kingma & Ba 2015
        "adamw": optax.adamw,  # Loshchilov & Hutter 2019
        "lamb": optax.lamb,  # You et al. 2020
        "lion": optax.lion,  # Chen et al. 2023
        "muon": optax.contrib.muon,  # Jordan et al. 2024
        "adafactor": optax.adafactor,  # Shazeer & Stern 2018
        "rmsprop": optax.rmsprop,  # Tieleman & Hinton 2012
    },
    {
        "momentum": Field(float, PROBABILITY, "weight of the earlier updates in each"),
        "nesterov": Field(bool, FLAG, "whether momentum looks ahead"),
        "b1": Field(float, PROBABILITY, "decay of the mean of the gradients"),
        "b2": Field(float, PROBABILITY, "decay of the mean of their squares"),
        "beta": Field(float, PROBABILITY, "decay of the mean of the gradients, of muon"),
        "decay": Field(float, PROBABILITY, "decay of the mean of the squared gradients, of rmsprop"),
        "eps": Field(float, POSITIVE, "added to denominators"),
        "weight_decay": Field(
            float, number(0), "fraction of the parameters, times the learning rate, that is subtracted"
        ),
        "weight_decay_rate": Field(float, number(0), "fraction of the parameters that adafactor subtracts"),
    },
)


def create_schedule(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Builds the configured schedule: the learning rate as a function of the number of steps already taken."""
    return SCHEDULES.create(config.schedule.name, config.schedule, config, epoch_steps)


def create_optimizer(config: ConfigDict, epoch_steps: int) -> optax.GradientTransformation:
    """Builds the configured optimizer: clipped gradients, the update, frozen parameters, the average of the weights."""
    every, schedule = config.optimizer.accumulate_steps, create_schedule(config, epoch_steps)
    per_update = (lambda count: schedule(count * every)) if every > 1 else schedule  # an optimizer counts its updates
    masks = dict.fromkeys(("mask", "weight_decay_mask"), _kernels if config.optimizer.decayed == "kernels" else None)
    tx = OPTIMIZERS.create(config.optimizer.name, config.optimizer, per_update, **masks)
    if config.optimizer.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.optimizer.clip_norm), tx)
    if config.freeze:
        labels = functools.partial(is_frozen, patterns=config.freeze)
        tx = optax.partition({False: tx, True: optax.set_to_zero()}, labels)
    if config.average_decay:
        tx = optax.chain(tx, average_weights(config.average_decay))
    return optax.MultiSteps(tx, every).gradient_transformation() if every > 1 else tx


def _kernels(params: Any) -> Any:
    """Returns True for kernels, and False for biases and the parameters of normalizations."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

"""Steps of a run once more, one by one, with their numbers: where NaN and infinity come from.

`apps/replay.py` prints them; a run whose numbers go wrong ends with what they say.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import input_pipeline
from digits_jax.augment import create_augment
from digits_jax.data import Dataset
from digits_jax.errors import DivergedError
from digits_jax.experiment import build, microbatch_size
from digits_jax.losses import create_loss
from digits_jax.metrics import Metrics
from digits_jax.parallel import replicas
from digits_jax.parallel.mesh import create_mesh
from digits_jax.runs.checkpoint import Progress
from digits_jax.train_step import TrainState, create_keys, make_train_steps


class StepReport(NamedTuple):
    """The numbers of one step."""

    step: int  # as counted before it
    learning_rate: float
    loss: float  # nats, mean over the batch
    gradient_norm: float  # over all parameters, Euclidean
    largest_parameter: float  # in absolute value, after the step

    @property
    def bad(self) -> str | None:
        """The first of its quantities, in the order they are computed, that is not finite."""
        quantities = {
            "the loss": self.loss, "the gradient": self.gradient_norm, "a parameter": self.largest_parameter
        }  # fmt: skip
        return next((f"{name} is {value}" for name, value in quantities.items() if not np.isfinite(value)), None)


def replay(
    config: FrozenConfigDict, dataset: Dataset, start: Progress, *, first: int, last: int
) -> Iterator[StepReport]:
    """Takes the steps from a checkpoint on as the run took them, and reports the steps `first` to `last` (exclusive).

    Args:
      config: the run's, resolved.
      dataset: its data.
      start: a checkpoint of it.
      first: a step at or after the checkpoint's.
      last: at most the end of the run.
    """
    step = int(start.state.step)
    one_by_one = ConfigDict(config.to_dict())
    one_by_one.steps_per_call = 1
    experiment = build(FrozenConfigDict(one_by_one), dataset)
    # With this optimizer a step is the gradient.
    tx = optax.sgd(1.0)
    take_gradient = make_train_steps(
        model=experiment.model,
        tx=tx,
        augment=create_augment(config.augment),
        loss=create_loss(config),
        microbatch_size=microbatch_size(config),
        mesh=create_mesh(),
    )
    # A copy, because the steps take their state for themselves.
    state, zero = replicas.stack([(jax.tree.map(jnp.copy, start.state), Metrics.zero())])
    while step < last:
        epoch = step // experiment.steps_per_epoch
        order = create_keys(state.seed).order
        batches = input_pipeline.epoch_batches(
            order, epoch, num_examples=experiment.feed.num_examples, batch_size=config.batch_size
        )
        batches = replicas.stack([batches])
        for call in experiment.feed.calls(batches, first_step=step - epoch * experiment.steps_per_epoch):
            norm = np.nan
            if step >= first:
                before: TrainState = jax.tree.map(jnp.copy, state).replace(opt_state=tx.init(state.params))
                moved, _ = take_gradient(jax.tree.map(jnp.copy, before), zero, *call)
                gradient, _ = ravel_pytree(jax.tree.map(jnp.subtract, before.params, moved.params))
                norm = float(jnp.linalg.norm(gradient))
            state, metrics = experiment.train_steps(state, zero, *call)
            if step >= first:
                yield StepReport(
                    step=step,
                    learning_rate=float(f"{float(experiment.schedule(step)):.6g}"),
                    loss=metrics.compute("train")["train/loss"],
                    gradient_norm=norm,
                    largest_parameter=_largest(state.params),
                )
            step += 1
            if step == last:
                return


def _largest(tree: Any) -> float:
    return float(jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]).max())


def diagnosis(
    config: FrozenConfigDict, dataset: Dataset, start: Progress, workdir: Path, *, last: int
) -> DivergedError:
    """Why a run cannot go on whose numbers are wrong, found by taking its steps again.

    Args:
      config: the run's, resolved.
      dataset: its data.
      start: its latest checkpoint.
      workdir: its folder.
      last: the step before which the wrong numbers were seen; they came up in the two calls before it.
    """
    first = max(int(start.state.step), last - 2 * config.steps_per_call)
    reports = replay(config, dataset, start, first=first, last=last)
    bad = next((report for report in reports if report.bad), None)
    what = f"{bad.bad} at step {bad.step} (learning rate {bad.learning_rate:g})" if bad else "the loss is not finite"
    return DivergedError(
        f"{what}; the checkpoint of step {int(start.state.step)} is kept, and this shows each step: "
        f"python -m digits_jax.apps.replay {workdir} --steps={first}:{last}"
    )

"""Steps of a run taken again one by one: where its numbers stop being finite."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import data, parallel
from digits_jax.errors import DivergedError
from digits_jax.experiment import Experiment, build
from digits_jax.input_pipeline import Call, epoch_batches
from digits_jax.metrics import Metrics
from digits_jax.runs.checkpoint import Progress
from digits_jax.runs.run import Run
from digits_jax.train_step import TrainState, create_keys


def build_single_steps(config: FrozenConfigDict, dataset: data.Dataset) -> Experiment:
    """Builds a run's experiment with one step per compiled call, which leaves its bits alone."""
    single = ConfigDict(config.to_dict())
    single.execution.steps_per_call = 1
    return build(FrozenConfigDict(single), dataset)


def single_steps(experiment: Experiment, start: TrainState, *, last: int) -> Iterator[tuple[int, Call]]:
    """Yields number and call of each step that a run takes from a state on, before `last`; see `build_single_steps`."""
    step = int(start.step)
    order_key = create_keys(start.seed).order
    while step < last:
        epoch = step // experiment.steps_per_epoch
        size = {"num_examples": experiment.pipeline.num_examples, "batch_size": experiment.config.batch_size}
        batches = parallel.stack([epoch_batches(order_key, epoch, **size)])
        for call in experiment.pipeline.calls(batches, first_step=step - epoch * experiment.steps_per_epoch):
            if step == last:
                return
            yield step, call
            step += 1


def largest_parameter(state: TrainState) -> float:
    """Returns the largest absolute value of a parameter."""
    return float(jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(state.params)]).max())


def diagnose(run: Run, progress: Progress) -> DivergedError:
    """Names the score that is not finite, or takes the steps since the latest checkpoint again and names the first."""
    experiment = build_single_steps(run.config, run.dataset)
    start = run.restore(experiment.create_state(np.uint32(run.config.seed)))
    what = _first_bad_score(progress) or _first_bad_step(experiment, run, start.state, progress.step)
    run.write_divergence(start.step, what)
    message = what
    if run.dataset.folder is not None:  # else `replay` cannot load it by its name
        first = max(start.step, progress.step - 2 * run.config.execution.steps_per_call)
        message += (
            f"; the checkpoint of step {start.step} is kept, and this shows each step: "
            f"python -m digits_jax.apps.replay {run.path} --steps={first}:{progress.step}"
        )
    return DivergedError(message, what=what, seed=run.config.seed)


def _first_bad_score(progress: Progress) -> str | None:
    row = progress.rows[-1] if progress.rows else {}
    bad = (f"{name} is {value} after step {progress.step}" for name, value in row.items() if not np.isfinite(value))
    return next(bad, None)


def _first_bad_step(experiment: Experiment, run: Run, start: TrainState, last: int) -> str:
    # A copy, because the steps are given their state's memory.
    state, zero = parallel.stack([(jax.tree.map(jnp.copy, start), Metrics.zero(run.config.metrics))])
    for step, call in single_steps(experiment, start, last=last):
        state, metrics = experiment.train_steps(state, zero, *call)
        quantities = {"the loss": metrics.compute("train")["train/loss"], "a parameter": largest_parameter(state)}
        if wrong := [f"{name} is {value}" for name, value in quantities.items() if not np.isfinite(value)]:
            return f"{wrong[0]} at step {step} (learning rate {float(experiment.schedule(step)):g})"
    return "the loss is not finite"

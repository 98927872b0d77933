"""Replays steps of a run one by one and prints their numbers: `python -m digits_jax.apps.replay RUN --steps=40:60`

It resumes from the last checkpoint before them and saves nothing.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import FrozenConfigDict

from digits_jax import cli, data, parallel, storage
from digits_jax.apps.command_flags import DATA_DIR
from digits_jax.errors import ConfigError, UserError
from digits_jax.experiment import create_recipe
from digits_jax.metrics import Metrics
from digits_jax.runs.checkpoint import Checkpoints, Progress
from digits_jax.runs.diagnosis import build_single_steps, largest_parameter, single_steps
from digits_jax.runs.registration import read_config
from digits_jax.runs.result import read_result
from digits_jax.runs.workdir import Workdir
from digits_jax.train_step import make_train_steps

STEPS = flags.DEFINE_string("steps", None, "FIRST:LAST, counted from 0, LAST exclusive")


class StepReport(NamedTuple):
    step: int  # as counted before it
    learning_rate: float
    loss: float  # nats, mean over the batch
    gradient_norm: float  # over all parameters, Euclidean
    largest_parameter: float  # in absolute value, after the step

    @property
    def bad(self) -> str | None:
        """The first of its quantities, in the order of computation, that is not finite."""
        quantities = {"the loss": self.loss, "the gradient": self.gradient_norm, "a parameter": self.largest_parameter}
        return next((f"{name} is {value}" for name, value in quantities.items() if not np.isfinite(value)), None)


def replay(
    config: FrozenConfigDict, dataset: data.Dataset, start: Progress, *, first: int, last: int
) -> Iterator[StepReport]:
    """Takes a run's steps from a checkpoint again, and yields reports of those from `first` to `last`, exclusive."""
    experiment = build_single_steps(config, dataset)
    sgd = optax.sgd(1.0)  # a step of it is the gradient
    recipe = create_recipe(config, dataset.num_classes, experiment.steps_per_epoch)._replace(tx=sgd)
    take_gradient = make_train_steps(recipe, mesh=parallel.create_mesh(), kernels=config.execution.kernels)
    # Copies, because the steps are given their state's memory.
    state, zero = parallel.stack([(jax.tree.map(jnp.copy, start.state), Metrics.zero(config.metrics))])
    for step, call in single_steps(experiment, start.state, last=last):
        if step >= first:
            copy = jax.tree.map(jnp.copy, state)
            moved, _ = take_gradient(copy.replace(opt_state=sgd.init(copy.params)), zero, *call)
            norm = float(optax.tree.norm(jax.tree.map(jnp.subtract, state.params, moved.params)))
        state, metrics = experiment.train_steps(state, zero, *call)
        if step >= first:
            rate, loss = float(f"{float(experiment.schedule(step)):.6g}"), metrics.compute("train")["train/loss"]
            yield StepReport(step, rate, loss, norm, largest_parameter(state))


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise ConfigError("expected the directory of one run, such as runs/vgg/0123abcd")
    found = re.fullmatch(r"(\d+):(\d+)", STEPS.value or "")
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--steps is {STEPS.value!r}: expected FIRST:LAST with FIRST below LAST, such as 40:60")
    first, last = int(found[1]), int(found[2])
    with storage.local_copy(argv[1]) as mirror:
        _show(argv[1], Workdir(mirror.local if mirror else storage.open_path(argv[1])), first, last)


def _show(path: str, folder: Workdir, first: int, last: int) -> None:
    config = read_config(folder.read_run(), path)
    dataset = data.load_configured(config.dataset, data_dir=DATA_DIR.value)
    folder.open(config, dataset, code=None)
    checkpoints = Checkpoints(folder.checkpoints, folder.identity)
    try:
        experiment = build_single_steps(config, dataset)
        result = read_result(folder)  # of a run that stopped early, too
        num_steps = result["final"]["step"] if result else sum(config.epochs) * experiment.steps_per_epoch
        if last > num_steps:
            raise ConfigError(f"--steps is {STEPS.value!r}: the run has {num_steps} steps, expected LAST up to that")
        initial_state = experiment.create_state(np.uint32(config.seed))
        start = checkpoints.restore(Progress.at_the_start(initial_state, config), step=first)
        if start is None:
            raise UserError(f"{folder.checkpoints} no longer has a checkpoint of step {first} or before it")
        cli.console.print("    step  learning rate          loss  gradient norm  largest parameter")
        for report in replay(config, dataset, start, first=first, last=last):
            step, rate, loss, norm, largest = report
            line = f"{step:8}{rate:15.6g}{loss:14.6g}{norm:15.6g}{largest:19.6g}  {report.bad or ''}"
            cli.console.print(line.rstrip())
    finally:
        folder.close()


if __name__ == "__main__":
    cli.run(main, positional=True)

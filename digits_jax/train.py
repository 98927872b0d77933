"""The effects: loops over epochs, evaluates, writes, saves."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import input_pipeline
from digits_jax.config import resolve, validate
from digits_jax.data import Dataset, load_configured
from digits_jax.experiment import Experiment, build, evaluate
from digits_jax.metrics import Metrics
from digits_jax.parallel import distributed, replicas
from digits_jax.runs import console
from digits_jax.runs.interrupts import Interrupted, StopRequest
from digits_jax.runs.profiling import StepProfiler
from digits_jax.runs.run import Row, Run
from digits_jax.runs.writers import Writer
from digits_jax.storage import local_copy
from digits_jax.train_step import create_keys


def train_and_evaluate(config: ConfigDict | FrozenConfigDict, workdir: epath.PathLike, **options: Any) -> list[Row]:
    """Trains a config to its end, going on from the workdir's latest checkpoint where there is one.

    Args:
      config: fields as in `configs/default.py`; of its `num_seeds`, only `seed`.
      workdir: the run's folder, which may be on a bucket (`gs://`); made where it is missing.
      options: as for `train_seeds`.

    Returns:
      One row of metrics per epoch, as in `metrics.jsonl`.

    Raises:
      UserError: the config, the data or the workdir is not usable.
      Interrupted: a signal asked for it; everything is saved.
    """
    return train_seeds(config, [config.seed], lambda _: workdir, **options)[0]


def train_seeds(
    config: ConfigDict | FrozenConfigDict,
    seeds: Sequence[int],
    workdir_of: Callable[[FrozenConfigDict], epath.PathLike],
    *,
    name: str | None = None,
    dataset: Dataset | None = None,
    writers: Sequence[Writer] = (),
    wandb_project: str | None = None,
    profile_steps: int = 0,
    stop: StopRequest | None = None,
) -> list[list[Row]]:
    """Trains a config with each of the seeds: a run each, as many at once as `replicas.at_once` says.

    Args:
      config: fields as in `configs/default.py`, of which `seed` is replaced.
      seeds: distinct.
      workdir_of: takes the resolved config of a run and returns its folder, in which it goes on from the latest
        checkpoint.
      name: what to call the experiment on the terminal and in plots; else the model's name.
      dataset: its data where they are already loaded.
      writers: of the rows of all runs, besides those of their workdirs.
      wandb_project: of Weights & Biases, to log to as well; then the seeds follow each other.
      profile_steps: how many of the first steps to trace with `jax.profiler`, into the first workdir's `profile`.
      stop: the caller's, entered, where it has more to train than these seeds.

    Returns:
      For each seed one row of metrics per epoch, as in `metrics.jsonl`.

    Raises:
      UserError: the config, the data or a workdir is not usable.
      Interrupted: a signal asked for it; everything is saved.
    """
    validate(config)
    with distributed.together():
        dataset = dataset or load_configured(config.dataset)
        configs = [resolve(config, dataset, seed=seed) for seed in seeds]
    distributed.check_same(configs[0], dataset)
    size = 1 if wandb_project else replicas.at_once(config, len(configs))
    finished: list[Run] = []
    with contextlib.nullcontext(stop) if stop else StopRequest(distributed.Agreement()) as stop:
        for start in range(0, len(configs), size):
            with contextlib.ExitStack() as at_exit:
                runs = []
                for run_config in configs[start : start + size]:
                    place, mirror = workdir_of(run_config), None
                    if not distributed.is_first():  # does the same as process 0, and forgets what it writes
                        place = at_exit.enter_context(TemporaryDirectory())
                    with distributed.together():
                        mirror = at_exit.enter_context(local_copy(place))
                    run = Run(
                        run_config,
                        dataset,
                        mirror.local if mirror else Path(place),
                        name=name or config.model.name,
                        writers=writers,
                        wandb_project=wandb_project,
                        mirror=mirror,
                    )
                    at_exit.callback(run.close)
                    runs.append(run)
                profiler = StepProfiler(runs[0].folder.profile, steps=0 if finished else profile_steps)
                at_exit.callback(profiler.close)
                _announce(runs, is_first=not finished)
                for run in runs:
                    run.write()  # an earlier process may have ended between a checkpoint and its row
                unfinished = sorted((run for run in runs if not run.is_finished), key=_step)
                for _, group in itertools.groupby(unfinished, _step):
                    _train_together(list(group), stop, profiler)
                for run in runs:
                    run.finish()
                finished += runs
                if len(finished) < len(configs) and stop.poll():
                    raise Interrupted(stop.signum)
    console.show_results([run.result for run in finished if run.result], [run.place for run in finished])
    return [run.rows for run in finished]


def _step(run: Run) -> int:
    return int(run.progress.state.step)


def _train_together(runs: list[Run], stop: StopRequest, profiler: StepProfiler) -> None:
    """Trains runs that are equally far, in one program, to their end."""
    experiment = build(runs[0].config, runs[0].dataset, num_replicas=len(runs))
    while not runs[0].is_finished:
        _train_epoch(experiment, runs, stop, profiler)
        for run in runs:
            if not _is_finite((run.progress.state, run.progress.metrics.loss_sum)):
                raise run.diagnose()
        finished = int(runs[0].progress.metrics.count) == experiment.feed.num_examples
        if finished:
            _finish_epoch(experiment, runs)
        for run in runs:
            run.save()
        if not finished:
            raise Interrupted(stop.signum)
        for run in runs:
            run.write()


def _train_epoch(experiment: Experiment, runs: list[Run], stop: StopRequest, profiler: StepProfiler) -> None:
    """The rest of the epoch that the runs are in, or the part of it until a stop is requested."""
    epoch, num_epochs, count = len(runs[0].rows), experiment.num_epochs, len(runs)
    num_examples = experiment.feed.num_examples
    make_batches = functools.partial(
        input_pipeline.epoch_batches,
        epoch=epoch,
        num_examples=num_examples,
        batch_size=experiment.config.batch_size,
    )
    batches = replicas.stack([make_batches(create_keys(run.progress.state.seed).order) for run in runs])
    state, metrics = replicas.stack([(run.progress.state, run.progress.metrics) for run in runs])
    first_step = _step(runs[0]) - epoch * experiment.steps_per_epoch
    # A call of no steps only compiles, so that the clock measures training.
    with console.compiling():
        for call in experiment.feed.empty_calls(batches):
            state, metrics = experiment.train_steps(state, metrics, *call)
    begin = time.perf_counter() - count * runs[0].progress.seconds
    label = f"epoch {epoch + 1}/{num_epochs}"
    remaining = count * num_examples * (num_epochs - epoch)
    with console.progress_bar(label, total=count * num_examples, remaining=remaining) as bar:
        for call in experiment.feed.calls(batches, first_step=first_step):
            if stop.poll():
                break
            previous = metrics
            profiler.before_call()
            state, metrics = experiment.train_steps(state, metrics, *call)
            profiler.after_call(call.stop - call.start, metrics)
            # Waits for the call before this one, while this one runs: never more than two are under way.
            sums = jax.tree.map(np.sum, jax.device_get(previous))
            bar(sums, seconds=time.perf_counter() - begin)
            if not np.isfinite(sums.loss_sum):
                break
        jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - begin) / count  # each one's share
    for run, (run_state, run_metrics) in zip(runs, replicas.unstack((state, metrics), count), strict=True):
        run.progress = run.progress._replace(state=run_state, metrics=run_metrics, seconds=seconds)


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _finish_epoch(experiment: Experiment, runs: list[Run]) -> None:
    """Evaluates, adds the epoch's row to each run and starts the next epoch's sums."""
    rate = float(experiment.schedule(_step(runs[0]) - 1))
    if experiment.before_scoring:
        together = experiment.before_scoring(replicas.stack([run.progress.state for run in runs]))
        for run, state in zip(runs, replicas.unstack(together, len(runs)), strict=True):
            run.progress = run.progress._replace(state=state)
    scores = evaluate(experiment.after_each_epoch, [run.progress.state for run in runs])
    rows = []
    for run, score in zip(runs, scores, strict=True):
        row = {
            "epoch": len(run.rows) + 1,
            "step": _step(run),
            "train/learning_rate": float(f"{rate:.6g}"),  # float32 would print 0.00999999
            **run.progress.metrics.compute("train"),
            **score.metrics,
            "train/seconds": round(run.progress.seconds, 3),
        }
        rows.append(row)
        run.progress = run.progress._replace(metrics=Metrics.zero(), seconds=0.0, rows=[*run.rows, row])
        run.scores = score
    _show_epoch(experiment, rows)


def _show_epoch(experiment: Experiment, rows: list[Row]) -> None:
    """One line: of several seeds, the means."""
    means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    means["epoch"] = rows[0]["epoch"]
    speed = experiment.feed.num_examples / max(means["train/seconds"], 1e-3)  # seconds are rounded to milliseconds
    console.show_epoch(means, num_epochs=experiment.num_epochs, images_per_second=speed)


def _announce(runs: list[Run], *, is_first: bool) -> None:
    experiment, dataset = runs[0].experiment, runs[0].dataset
    if is_first:
        held_out = len(dataset.validation_labels)
        console.console.print(
            f"{runs[0].name} on {dataset.name}: {experiment.feed.num_examples:,} images to train on, "
            + (f"{held_out:,} of the training images held out to select the epoch, " if held_out else "")
            + f"{len(dataset.arrays.test_labels):,} to test, on {jax.devices()[0].device_kind}\n"
        )
        console.show_layers(experiment.model, dataset.image_shape)
    for run in runs:
        status = ""
        if run.is_finished:
            status = "; it is finished, nothing is left to train"
        elif step := _step(run):
            status = f"; going on from step {step:,} ({len(run.rows)} epochs done)"
        console.console.print(f"seed {run.config.seed} in {run.place}{status}")
        for warning in run.warnings:
            console.warn(warning)
    if len(runs) > 1:
        console.console.print(f"{len(runs)} seeds in one program; below are their means")
    console.show_header(["train", *experiment.after_each_epoch])
    for rows in zip(*(run.rows for run in runs), strict=False):
        _show_epoch(experiment, list(rows))

"""The training loop: trains epochs, evaluates, logs and saves. It owns the state of each run, a `Progress`."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import data, parallel, runs
from digits_jax.config import resolve, validate
from digits_jax.experiment import Experiment, build
from digits_jax.input_pipeline import epoch_batches
from digits_jax.metrics import CALLBACKS, Metrics
from digits_jax.runs import Progress, Row, Run, console
from digits_jax.runs.console import evaluate
from digits_jax.runs.history import best_row, score_key
from digits_jax.storage import PathLike
from digits_jax.train_step import create_keys

States = dict[Run, Progress]


def train_and_evaluate(config: ConfigDict | FrozenConfigDict, workdir: PathLike, **options: Any) -> list[Row]:
    """Trains a config to its end; returns its rows of metrics. As `train_seeds` with the one seed `config.seed`."""
    [progress] = train_seeds(config, [config.seed], lambda _: workdir, **options).values()
    return progress.rows


def train_seeds(
    config: ConfigDict | FrozenConfigDict,
    seeds: Sequence[int],
    workdir_of: Callable[[FrozenConfigDict], PathLike],
    *,
    name: str | None = None,
    dataset: data.Dataset | None = None,
    writers: Sequence[runs.Writer] = (),
    wandb_project: str | None = None,
    profile_steps: int = 0,
    stop: runs.StopRequest | None = None,
    code: str = "check",
    extend: PathLike | None = None,
) -> States:
    """Trains a config with each of the seeds to its end: a run each, resumed from its latest checkpoint if it has one.

    Args:
      config: fields as in `digits_jax.config.FIELDS`, of which `seed` is replaced.
      seeds: distinct; as many at once as `parallel.seeds_at_once` says.
      workdir_of: takes the resolved config of a run and returns its directory, which may be on a bucket (`gs://`).
      name: what to call the experiment on the terminal and in plots; else the model's name.
      dataset: its data where they are already loaded.
      writers: of the rows of all runs, besides those of their workdirs.
      wandb_project: of Weights & Biases, to log to as well; then the seeds follow each other.
      profile_steps: how many of the first steps to trace with `jax.profiler`, into the first workdir's `profile`.
      stop: the caller's, entered, where it has more to train than these seeds.
      code: where other code trained a run, "check" refuses it, "fresh" trains anew beside it, "accept" continues it.
      extend: the directory of the run to continue, or that of several seeds' runs, see `runs.extend`.

    Returns:
      For each seed its run, closed, and the final progress: the state, and a row of metrics per epoch.

    Raises:
      UserError: the config, the data or a workdir is not usable, or training diverged.
      Interrupted: a signal asked for it; everything is saved.
    """
    validate(config)
    with parallel.together():
        config, pretrained = runs.load_initial(config)
        dataset = dataset or data.load_configured(config.dataset)
        configs = [resolve(config, dataset, seed=seed) for seed in seeds]
        configs, parents = runs.extend(configs, dataset, extend) if extend else (configs, {})
    parallel.check_same(runs.describe_code_and_data(configs[0], dataset))
    size = 1 if wandb_project else parallel.seeds_at_once(config, len(configs))
    experiment_of = functools.cache(
        lambda replicas: build(configs[0], dataset, num_replicas=replicas, pretrained=pretrained)
    )
    options: dict[str, Any] = {"name": name or config.model.name, "writers": writers, "code": code, "parents": parents}
    finished: States = {}
    with (
        contextlib.nullcontext(stop) if stop else runs.StopRequest(parallel.Agreement()) as stop,
        runs.StepProfiler(profile_steps) as profiler,
    ):
        for start in range(0, len(configs), size):
            group = configs[start : start + size]
            with runs.open_runs(group, dataset, workdir_of, wandb_project=wandb_project, **options) as opened:
                single = experiment_of(1)
                progress = {run: run.restore(single.create_state(np.uint32(run.config.seed))) for run in opened}
                notes = runs.describe_taken(next(iter(progress.values())).state, pretrained, config.init_from)
                notes += [parent.note for parent in parents.values()]
                runs.announce(single, progress, is_first=not finished, notes=notes)
                for run in opened:
                    run.write(progress[run].rows)  # an earlier process may have ended between a checkpoint and its row
                progress = _train_to_the_end(experiment_of, progress, stop, profiler)
                for run in opened:
                    _finish(single, run, progress[run])
                finished |= progress
                if len(finished) < len(configs) and stop.poll():
                    raise runs.Interrupted(stop.signum)
    runs.show_results(list(finished))
    return finished


def _train_to_the_end(
    experiment_of: Callable[[int], Experiment], progress: States, stop: runs.StopRequest, profiler: runs.StepProfiler
) -> States:
    """Trains runs to their end; those at the same step together, in one program."""
    unfinished = {run: done for run, done in progress.items() if not run.is_finished(done.rows)}
    for step in sorted({done.step for done in unfinished.values()}):
        group = {run: done for run, done in unfinished.items() if done.step == step}
        experiment = experiment_of(len(group))
        while not all(run.is_finished(done.rows) for run, done in group.items()):
            group = _train_epoch(experiment, group, stop, profiler)
            for run, done in group.items():
                if not _is_finite((done.state, done.metrics.loss_sum)):
                    raise runs.diagnose(run, done)
            is_complete = all(int(done.metrics.count) == experiment.pipeline.num_examples for done in group.values())
            if is_complete:
                group = _finish_epoch(experiment, group)
            for run, done in group.items():
                run.save(done)
            if not is_complete:
                raise runs.Interrupted(stop.signum)
            for run, done in group.items():
                run.write(done.rows)
        progress = progress | group
    return progress


def _train_epoch(
    experiment: Experiment, progress: States, stop: runs.StopRequest, profiler: runs.StepProfiler
) -> States:
    """Trains the rest of the current epoch, or the part of it until a stop is requested."""
    pipeline, count, first = experiment.pipeline, len(progress), next(iter(progress.values()))
    epoch, num_epochs = len(first.rows), sum(experiment.config.epochs)
    first_step = first.step - epoch * experiment.steps_per_epoch  # read before the state is donated
    shuffle = functools.partial(
        epoch_batches, epoch=epoch, num_examples=pipeline.num_examples, batch_size=experiment.config.batch_size
    )
    batches = parallel.stack([shuffle(create_keys(done.state.seed).order) for done in progress.values()])
    state, metrics = parallel.stack([(done.state, done.metrics) for done in progress.values()])
    # A call of no steps only compiles, so that the clock measures training.
    with console.status("compiling"):
        for call in pipeline.empty_calls(batches):
            state, metrics = experiment.train_steps(state, metrics, *call)
    begin = time.perf_counter() - count * first.seconds
    total = count * pipeline.num_examples
    with console.progress_bar(epoch + 1, num_epochs, total=total) as bar:
        for call in pipeline.calls(batches, first_step=first_step):
            if stop.poll():
                break
            previous = metrics
            profiler.before_call(next(iter(progress)))
            state, metrics = experiment.train_steps(state, metrics, *call)
            profiler.after_call(call.stop - call.start, metrics)
            # Waits for the call before this one, while this one runs: never more than two are in flight.
            sums = jax.tree.map(np.sum, jax.device_get(previous))
            bar(sums, seconds=time.perf_counter() - begin)
            if not np.isfinite(sums.loss_sum):
                break
        jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - begin) / count  # each run's share
    results = parallel.unstack((state, metrics), count)
    return {
        run: done._replace(state=state, metrics=metrics, seconds=seconds)
        for (run, done), (state, metrics) in zip(progress.items(), results, strict=True)
    }


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _finish_epoch(experiment: Experiment, progress: States) -> States:
    """Evaluates, appends the epoch's row to each run's history and resets the epoch's sums."""
    states = [done.state for done in progress.values()]
    if experiment.update_statistics:
        states = parallel.unstack(experiment.update_statistics(parallel.stack(states)), len(states))
    scores = evaluate(experiment.after_each_epoch, states)
    ended = {}
    for (run, done), state, score in zip(progress.items(), states, scores, strict=True):
        row = {
            "epoch": len(done.rows) + 1,
            "step": done.step,
            "train/learning_rate": float(f"{float(experiment.schedule(done.step - 1)):.6g}"),  # not 0.00999999
            **done.metrics.compute("train"),
            **score.metrics,
            "train/seconds": round(done.seconds, 3),
        }
        for name in run.config.callbacks:
            row |= {key: float(value) for key, value in (CALLBACKS[name](experiment, state, row) or {}).items()}
        ended[run] = Progress(state, Metrics.zero(experiment.config.metrics), 0.0, [*done.rows, row])
        if not np.isfinite([*row.values()]).all():  # finite weights may well overflow
            raise runs.diagnose(run, ended[run])
        run.scores = score
    runs.show_epoch(experiment, [done.rows[-1] for done in ended.values()])
    return ended


def _finish(experiment: Experiment, run: Run, progress: Progress) -> None:
    """Scores what is scored at the end only, and writes the result and the curves; once per run."""
    if run.result:
        return  # it names the code and versions that it is from: these may be others
    best, at_the_end = best_row(progress.rows, score_key(run.config)), experiment.at_the_end
    is_last = best["step"] == progress.step or not at_the_end
    best_state = progress.state if is_last else run.restore_step(progress, best["step"]).state
    final_scores, best_scores = (evaluate(at_the_end, [state])[0] for state in (progress.state, best_state))
    scores = run.scores or evaluate(experiment.after_each_epoch, [progress.state])[0]
    run.write_result(
        progress,
        final={**progress.rows[-1], **final_scores.metrics},
        best={**best, **best_scores.metrics},
        misclassified=scores.misclassified | final_scores.misclassified,
    )

"""The runs of a sweep as tasks: which are finished, how long the others take, and their training in this process."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from digits_jax import cli, input_pipeline, parallel, train_loop
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, DivergedError, UserError
from digits_jax.experiment import Experiment, build
from digits_jax.metrics import Metrics
from digits_jax.runs.identity import config_hash, from_recorded
from digits_jax.runs.interrupts import Interrupted, StopRequest
from digits_jax.runs.result import read_result as check_result
from digits_jax.runs.workdir import Workdir, differences_to_run
from digits_jax.storage import PathLike, is_bucket, open_path
from digits_jax.studies.results import FILE, Result, add_results, read_file, read_result
from digits_jax.studies.sweep.definition import Sweep
from digits_jax.studies.sweep.plan import PlannedRun, plan
from digits_jax.train_step import create_keys

_PROBE_IMAGES = 20 * 64  # trained on for the estimate
Report = Callable[[str], None]  # takes the progress of a group, such as "epoch 2/3"


@dataclasses.dataclass(eq=False)
class Task:
    """A planned run and its progress."""

    run: PlannedRun
    dataset: Dataset
    results_file: Path  # of the sweep
    folder: str  # of its workdir, which is <folder>/<hash>; may be on a bucket
    status: str = "waiting"  # then "epoch 2/3", and "done" or "failed: REASON"; "reused" if it was trained elsewhere
    accuracy: float | None = None  # of the final epoch, once it is finished
    estimate: float = 0.0  # seconds


def create_tasks(
    sweep: Sweep, *, results: Path, runs: PathLike, shard: tuple[int, int] = (0, 1), source_dir: str | None = None
) -> list[Task]:
    """Returns the runs of a shard as tasks, and adds the results of those that were trained elsewhere to the sweep's.

    A run is found by its config and data in the results of this and other sweeps, then by its workdir. The hash that
    was recorded does not count: an earlier version may have computed it in another way. A bucket with workdirs is not
    searched; a run that is finished there is found when it is its turn to be trained. Raises a UserError if the sweep's
    results cannot be written, or have the variant of a run with another config, but for the seed, or other data.
    """
    file = results / sweep.name / FILE
    own = read_file(file) if file.exists() else []
    others = [result for other in results.glob(f"*/{FILE}") if other != file for result in read_file(other)]
    done, elsewhere = _by_config(own), _by_config(others)
    recorded = {result["variant"]: result for result in own}
    planned, tasks, finished = plan(sweep, source_dir=source_dir), [], []
    for run, dataset in planned:
        other_run = recorded.get(run.variant) if (run.hash, dataset.sha256) not in done else None
        for field, ours, theirs in differences_to_run(run.config, dataset, other_run) if other_run else ():
            if field != "config.seed":
                where = f"{file} has variant {run.variant!r} with {field} = {theirs!r}"
                raise UserError(f"{where}, this one has {ours!r}: give another --results")
    for run, dataset in planned[shard[0] :: shard[1]]:
        task = Task(run, dataset, file, folder=f"{runs}/{run.experiment}")
        tasks.append(task)
        key = (run.hash, dataset.sha256)
        if result := done.get(key) or elsewhere.get(key) or _in_workdir(run, dataset, runs):
            task.status = "done" if key in done else "reused"
            finished.append((task, result))
    add_results(file, [])  # fails before anything is trained
    _publish(sweep, finished)
    return tasks


def _by_config(results: list[Result]) -> dict[tuple[str, str], Result]:
    """Returns results by the hashes of their config, as this version computes it, and of their data."""
    found = {}
    for result in results:
        with contextlib.suppress(ConfigError):  # a field that this version does not have: no run of today's
            found[config_hash(from_recorded(result["config"])), result["dataset"]["sha256"]] = result
    return found


def _in_workdir(run: PlannedRun, dataset: Dataset, runs: PathLike) -> Result | None:
    for file in () if is_bucket(runs) else Path(runs).glob(f"*/{run.hash}/result.json"):
        result, workdir = read_result(file), Workdir(file.parent)
        workdir.read_run()
        check_result(workdir)
        if not differences_to_run(run.config, dataset, result):
            return result
    return None


def _publish(sweep: Sweep, finished: Sequence[tuple[Task, Result]]) -> None:
    fields = sweep._asdict()
    for task, result in finished:
        task.accuracy = result["final"]["test/accuracy"]
    if finished:
        results = [{**result, "sweep": fields, "variant": task.run.variant} for task, result in finished]
        add_results(finished[0][0].results_file, results)


def estimate(tasks: list[Task], *, at_once: int = 1) -> None:
    """Sets what each waiting task adds to the total time, from a few measured steps of each distinct program.

    The total is that of training `at_once` groups at the same time.
    """
    seconds: dict[Any, float] = {}
    for group in groups(tasks):
        config, dataset = group[0].run.config, group[0].dataset
        program = (group[0].run.variant, len(group))  # seeds share one
        if program not in seconds:
            experiment = build(config, dataset, num_replicas=len(group))
            evaluated = len(dataset.validation_labels) or len(dataset.arrays.test_labels)
            # A forward pass takes a third of a training step.
            images = experiment.pipeline.num_examples + len(experiment.after_each_epoch) * evaluated / 3
            per_image = _measured_step(experiment, len(group)) / config.batch_size
            seconds[program] = sum(config.epochs) * images * per_image
        for task in group:
            task.estimate = seconds[program] / len(group) / at_once


def _measured_step(experiment: Experiment, num_replicas: int) -> float:
    start = experiment.create_state(np.uint32(0))
    batch_size, num_examples = experiment.config.batch_size, experiment.pipeline.num_examples
    order = create_keys(start.seed).order
    batches = input_pipeline.epoch_batches(order, 0, num_examples=num_examples, batch_size=batch_size)
    state, metrics, batches = parallel.stack([(start, Metrics.zero(experiment.config.metrics), batches)] * num_replicas)
    call = next(experiment.pipeline.calls(batches, first_step=0))
    steps = max(1, min(_PROBE_IMAGES // batch_size, call.stop))
    for stop in (0, steps, steps):  # the first only compiles, the second touches its memory for the first time
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(experiment.train_steps(state, metrics, *call._replace(stop=stop)))
        seconds = time.perf_counter() - begin
    return seconds / steps


def groups(tasks: list[Task]) -> Iterator[list[Task]]:
    """Yields the waiting tasks in groups that one program trains."""
    waiting = [task for task in tasks if task.status == "waiting"]
    while waiting:
        same = [task for task in waiting if task.run.variant == waiting[0].run.variant]
        group = same[: parallel.seeds_at_once(same[0].run.config, len(same))]
        yield group
        waiting = [task for task in waiting if task not in group]


def set_status(group: list[Task], status: str) -> None:
    for task in group:
        task.status = status


def finish(sweep: Sweep, group: list[Task], results: list[Result]) -> None:
    """Adds the results of a group to the sweep's."""
    _publish(sweep, [*zip(group, results, strict=True)])
    set_status(group, "done")


def fail(group: list[Task], reason: object) -> None:
    """Records why a group has no results: a variant may well diverge."""
    set_status(group, f"failed: {reason}")
    for task in group:
        task.estimate = 0.0


class Executor(NamedTuple):
    """Trains the tasks of a sweep."""

    run: Callable[[Sweep, list[Task], float], Iterator[Task]]  # as `run_tasks`, with its arguments and exceptions
    at_once: int  # groups that are trained at the same time, each as fast as one here; 0: the speed is unknown


def run_tasks(sweep: Sweep, tasks: list[Task], deadline: float = math.inf) -> Iterator[Task]:
    """Trains the waiting tasks, updates their status, and yields each when it is finished or has diverged.

    After the `deadline`, a time as of `time.time()`, no group is started but the first. Raises Interrupted if a signal
    comes, with everything saved, and a UserError if a run cannot continue.
    """
    with StopRequest() as stop:
        for number, group in enumerate(groups(tasks)):
            if stop.poll():
                raise Interrupted(stop.signum)
            if number and time.time() >= deadline:
                return
            report = functools.partial(set_status, group)
            try:
                results = train_group([t.run for t in group], group[0].folder, group[0].dataset, report, stop)
            except DivergedError as error:
                fail(group, error)
            else:
                finish(sweep, group, results)
            yield from group


def train_group(
    runs: list[PlannedRun], folder: PathLike, dataset: Dataset, report: Report, stop: StopRequest | None = None
) -> list[Result]:
    """Trains runs that differ in their seed, each in `<folder>/<hash>`, and returns their results.

    `stop` and the exceptions are those of `train_loop.train_seeds`.
    """
    config, name, hashes = runs[0].config, runs[0].experiment, {run.seed: run.hash for run in runs}
    writers = [_Progress(report, sum(config.epochs))]

    def workdir(config: FrozenConfigDict) -> str:
        return f"{folder}/{hashes[config.seed]}"

    with cli.quiet():
        train_loop.train_seeds(config, list(hashes), workdir, name=name, dataset=dataset, writers=writers, stop=stop)
    return [read_result(open_path(folder) / run.hash / "result.json") for run in runs]


class _Progress(NamedTuple):
    """A writer of rows that reports the epoch."""

    report: Report
    num_epochs: int

    def write(self, rows: list[dict[str, Any]]) -> None:
        self.report(f"epoch {min(len(rows) + 1, self.num_epochs)}/{self.num_epochs}")

    def close(self) -> None:
        pass

"""The runs of a sweep as tasks: which are finished, how long the others take, and their training in this process."""

import contextlib
import dataclasses
import functools
import math
import re
import statistics
import tempfile
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
from digits_jax.evaluate import evaluate
from digits_jax.experiment import Experiment, build
from digits_jax.runs.checkpoint import Checkpoints, Progress
from digits_jax.runs.code import Code, code_hash, describe_changes, describe_code, last_recorded
from digits_jax.runs.identity import config_hash, from_recorded
from digits_jax.runs.interrupts import Interrupted, StopRequest
from digits_jax.runs.result import read_result as check_result
from digits_jax.runs.workdir import Workdir, describe_run, differences_to_run, find_workdir
from digits_jax.storage import PathLike, is_bucket, open_path
from digits_jax.studies.results import FILE, Result, add_results, read_file, read_result, read_runs
from digits_jax.studies.sweep.definition import Sweep
from digits_jax.studies.sweep.plan import PlannedRun, plan
from digits_jax.train_step import create_keys

_PROBE_IMAGES = 20 * 64  # trained on in one call for the estimate
_PROBE_SECONDS = 1.0  # of such calls: where the machine is busy, a single one may well be undisturbed
Report = Callable[[str], None]  # takes the progress of a group, such as "epoch 2/3"


@dataclasses.dataclass(eq=False)
class Task:
    """A planned run and its progress."""

    run: PlannedRun
    dataset: Dataset
    results_file: Path  # of the sweep
    folder: str  # of its workdir, which is <folder>/<hash>; may be on a bucket
    code: str = "check"  # what to do about other code, as for `train_loop.train_seeds`
    # Then "epoch 2/3", and "done", "diverged: HOW" or "failed: REASON"; "reused" if it was trained elsewhere.
    status: str = "waiting"
    accuracy: float | None = None  # of the final epoch, once it is finished
    estimate: float = 0.0  # seconds
    started: float | None = None  # as of `time.monotonic()`, if it was trained from its start
    seconds: float | None = None  # that it took, its share of a group's

    @property
    def ended(self) -> bool:
        """True if it has stopped without a result."""
        return self.status.startswith(("diverged", "failed"))


def create_tasks(
    sweep: Sweep,
    *,
    results: Path,
    runs: PathLike,
    shard: tuple[int, int] = (0, 1),
    source_dir: str | None = None,
    code: str = "check",
) -> list[Task]:
    """Returns the runs of a shard as tasks, and adds the results of those that were trained elsewhere to the sweep's.

    A run is found by its config and data in the results of this and other sweeps, then by its workdir. The hash that
    was recorded does not count: an earlier version may have computed it in another way. A bucket with workdirs is not
    searched; a run that is finished there is found when it is its turn to be trained. A run that diverged with today's
    code is not trained again. Raises a UserError if the sweep's results cannot be written, or have the variant of a run
    with another config, but for the seed, or other data; or if other code trained what is found, unless `code` says
    what to do about it.
    """
    file = results / sweep.name / FILE
    own, not_finished = read_runs([file]) if file.exists() else ([], [])
    others = [result for other in results.glob(f"*/{FILE}") if other != file for result in read_file(other)]
    done, elsewhere, diverged = _by_config(own), _by_config(others), _by_config(not_finished)
    recorded = {result["variant"]: result for result in own}
    planned, tasks, finished = plan(sweep, source_dir=source_dir), [], []
    for run, dataset in planned:
        other_run = recorded.get(run.variant) if (run.hash, dataset.sha256) not in done else None
        for field, ours, theirs in differences_to_run(run.config, dataset, other_run) if other_run else ():
            if field != "config.seed":
                where = f"{file} has variant {run.variant!r} with {field} = {theirs!r}"
                raise UserError(f"{where}, this one has {ours!r}: give another --results")
    for run, dataset in planned[shard[0] :: shard[1]]:
        task = Task(run, dataset, file, folder=f"{runs}/{run.experiment}", code=code)
        tasks.append(task)
        key = (run.hash, dataset.sha256)
        today = describe_code(run.config)
        found = [result for result in (done.get(key), elsewhere.get(key), *_in_workdirs(run, dataset, runs)) if result]
        ranks = {code_hash(today): 0, None: 1}  # of today's code, of code that was not recorded, of other code
        result = min(found, key=lambda result: ranks.get(result.get("code_hash"), 2), default=None)
        gone = diverged.get(key)
        if not result and gone and code != "fresh" and (code == "accept" or gone["code_hash"] == code_hash(today)):
            task.status = f"diverged: {gone['diverged']}"
        elif result is None or ranks.get(result.get("code_hash"), 2) > {"fresh": 0, "check": 1, "accept": 2}[code]:
            if result and code == "check":
                raise UserError(
                    f"the result of variant {run.variant!r} with seed {run.seed} is of other code "
                    f"({_changes(run, runs, today, result)}): --fresh trains anew, --accept_code reuses it"
                )
        else:
            task.status = "done" if result is done.get(key) else "reused"
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


def _in_workdirs(run: PlannedRun, dataset: Dataset, runs: PathLike) -> Iterator[Result]:
    for workdir in _workdirs(run, runs):
        if workdir.result_file.exists():
            result = read_result(workdir.result_file)
            workdir.read_run()
            check_result(workdir)
            if not differences_to_run(run.config, dataset, result):
                yield result


def _workdirs(run: PlannedRun, runs: PathLike) -> list[Workdir]:
    """Returns the local workdirs of a run, `<hash>` and `<hash>-2`, `<hash>-3`, ... of all experiments."""
    files = () if is_bucket(runs) else sorted(Path(runs).glob(f"*/{run.hash}*/run.json"))
    return [Workdir(file.parent) for file in files if re.fullmatch(rf"{run.hash}(-\d+)?", file.parent.name)]


def _changes(run: PlannedRun, runs: PathLike, today: Code, result: Result) -> str:
    """Returns in words which files have changed since a result; only its run's `run.json` names them."""
    for workdir in _workdirs(run, runs):
        recorded = last_recorded(workdir.read_run(), "code")
        if recorded and code_hash(recorded) == result["code_hash"]:
            return str(describe_changes(today, recorded))
    return f"its code_hash is {result['code_hash'][:8]}..., today's is {code_hash(today)[:8]}..."


def _publish(sweep: Sweep, finished: Sequence[tuple[Task, Result]]) -> None:
    fields = sweep._asdict()
    for task, result in finished:
        task.accuracy = result["final"].get("test/accuracy", result["final"].get("validation/accuracy"))
    if finished:
        results = [{**result, "sweep": fields, "variant": task.run.variant} for task, result in finished]
        add_results(finished[0][0].results_file, results)


class Costs(NamedTuple):
    """Seconds that a program takes."""

    start: float  # compilation, and the first checkpoint
    step: float  # of training
    epoch_end: float  # evaluation and a checkpoint


def estimate(tasks: list[Task], *, at_once: int = 1) -> None:
    """Sets what each waiting task adds to the total time, from measurements of each distinct program.

    The total is that of training `at_once` groups at the same time.
    """
    seconds: dict[Any, float] = {}
    for group in groups(tasks):
        config, dataset = group[0].run.config, group[0].dataset
        program = (group[0].run.variant, len(group))  # seeds share one
        if program not in seconds:
            experiment = build(config, dataset, num_replicas=len(group))
            costs = measure(experiment, len(group))
            epoch_seconds = experiment.steps_per_epoch * costs.step + costs.epoch_end
            seconds[program] = costs.start + sum(config.epochs) * epoch_seconds
        for task in group:
            task.estimate = seconds[program] / len(group) / at_once


def refine(tasks: list[Task], *, at_once: int = 1) -> None:
    """Sets the estimates of unfinished tasks to the mean that finished ones of their variant took; see `estimate`."""
    took: dict[str, list[float]] = {}
    for task in tasks:
        if task.seconds is not None:
            took.setdefault(task.run.variant, []).append(task.seconds)
    for task in tasks:
        if task.run.variant in took and not task.ended:
            task.estimate = statistics.mean(took[task.run.variant]) / at_once


def measure(experiment: Experiment, num_replicas: int) -> Costs:
    """Does once what a run does: compiles, saves, trains (for a second) and evaluates."""
    start = experiment.create_state(np.uint32(0))
    batch_size, num_examples = experiment.config.batch_size, experiment.pipeline.num_examples
    order = create_keys(start.seed).order
    progress = Progress.at_the_start(start, experiment.config)
    with tempfile.TemporaryDirectory() as folder:  # before the state is donated
        saving = mean_seconds(lambda: Checkpoints(Path(folder)).save(progress, best=None))
    batches = input_pipeline.epoch_batches(order, 0, num_examples=num_examples, batch_size=batch_size)
    state, metrics, batches = parallel.stack([(start, progress.metrics, batches)] * num_replicas)
    call = next(experiment.pipeline.calls(batches, first_step=0))
    steps = max(1, min(_PROBE_IMAGES // batch_size, call.stop))

    def train_steps(stop: int) -> None:
        nonlocal state
        state, _ = jax.block_until_ready(experiment.train_steps(state, metrics, *call._replace(stop=stop)))

    def evaluate_epoch() -> None:
        averaged = experiment.update_statistics(state) if experiment.update_statistics else state
        evaluate(experiment.after_each_epoch, parallel.unstack(averaged, num_replicas))

    compilation = mean_seconds(lambda: train_steps(0)) + mean_seconds(evaluate_epoch)
    train_steps(steps)  # touches its memory for the first time
    step = mean_seconds(lambda: train_steps(steps), at_least=_PROBE_SECONDS) / steps
    saving *= num_replicas
    return Costs(compilation + saving, step, mean_seconds(evaluate_epoch) + saving)


def mean_seconds(function: Callable[[], None], *, at_least: float = 0.0) -> float:
    """Returns the mean duration of calls of a function, of which it makes as many as take `at_least` some seconds.

    Their median would leave out the interruptions of a busy machine, which the run will have as well.
    """
    begin, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - begin < at_least:
        function()
        calls += 1
    return (time.perf_counter() - begin) / calls


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
        if status.startswith("epoch 1/") and task.started is None:  # a resumed run takes less
            task.started = time.monotonic()
        task.status = status


def finish(sweep: Sweep, group: list[Task], results: list[Result]) -> None:
    """Adds the results of a group to the sweep's."""
    _publish(sweep, [*zip(group, results, strict=True)])
    set_status(group, "done")
    for task in group:
        task.seconds = None if task.started is None else (time.monotonic() - task.started) / len(group)


def diverge(sweep: Sweep, group: list[Task], error: DivergedError) -> None:
    """Records which run of a group diverged. The others stopped with it and resume when the sweep is run again."""
    fail(group, f"stopped with seed {error.seed}, which diverged; run the sweep again to resume")
    for task in group:
        if task.run.seed == error.seed:
            task.status = f"diverged: {error}"
            run = describe_run(task.run.config, task.dataset)
            record = {"diverged": error.what, "variant": task.run.variant, "sweep": sweep._asdict(), **run}
            add_results(task.results_file, [record])


def fail(group: list[Task], reason: object) -> None:
    """Records why a group has no results."""
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
                options = {"stop": stop, "code": group[0].code}
                results = train_group([t.run for t in group], group[0].folder, group[0].dataset, report, **options)
            except DivergedError as error:
                diverge(sweep, group, error)
            else:
                finish(sweep, group, results)
            yield from group


def train_group(
    runs: list[PlannedRun], folder: PathLike, dataset: Dataset, report: Report, **options: Any
) -> list[Result]:
    """Trains runs that differ in their seed, each in `<folder>/<hash>`, and returns their results.

    The `options` and the exceptions are those of `train_loop.train_seeds`.
    """
    config, name, hashes = runs[0].config, runs[0].experiment, {run.seed: run.hash for run in runs}
    writers = [_Progress(report, sum(config.epochs))]

    def workdir(config: FrozenConfigDict) -> str:
        return f"{folder}/{hashes[config.seed]}"

    with cli.quiet():
        train_loop.train_seeds(config, list(hashes), workdir, name=name, dataset=dataset, writers=writers, **options)
    workdirs = [find_workdir(f"{folder}/{run.hash}", run.config, dataset) for run in runs]
    return [read_result(open_path(path) / "result.json") for path in workdirs]


class _Progress(NamedTuple):
    """A writer of rows that reports the epoch."""

    report: Report
    num_epochs: int

    def write(self, rows: list[dict[str, Any]]) -> None:
        self.report(f"epoch {min(len(rows) + 1, self.num_epochs)}/{self.num_epochs}")

    def close(self) -> None:
        pass

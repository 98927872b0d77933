"""The runs of a sweep as tasks: which are finished, which are trained together, and how long that takes."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath

from digits_jax import input_pipeline
from digits_jax.data import Dataset
from digits_jax.errors import UserError
from digits_jax.experiment import Experiment, build
from digits_jax.metrics import Metrics
from digits_jax.parallel import replicas
from digits_jax.runs.workdir import differences_to_run, write_result_file
from digits_jax.storage import is_bucket
from digits_jax.studies.report.results import read_result
from digits_jax.studies.sweep.plan import Run, Sweep, plan
from digits_jax.train_step import create_keys

_PROBE_IMAGES = 20 * 64  # trained on for the estimate


@dataclasses.dataclass(eq=False)
class Task:
    """A run of this process, and how far it is."""

    run: Run
    dataset: Dataset
    result_file: Path
    workdir: epath.Path  # may be on a bucket
    # "done", "reused" (trained elsewhere), while it trains "epoch 2/3", or why it "failed: ..."
    status: str = "waiting"
    accuracy: float | None = None  # of the final epoch, once it is finished
    estimate: float = 0.0  # seconds


def create_tasks(
    sweep: Sweep, *, results: Path, runs: epath.PathLike, shard: tuple[int, int] = (0, 1), source_dir: str | None = None
) -> list[Task]:
    """The runs of a shard; those that are finished anywhere are marked, and have their result file.

    Where `runs` is on a bucket it is not searched; a run that is finished there says so when it is to be trained.

    Raises:
      ConfigError: the sweep's variants make no sense.
      UserError: a result file is damaged, or of another run.
    """

    folder = results / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    runs = epath.Path(runs)
    tasks = []
    for run, dataset in plan(sweep, source_dir=source_dir)[shard[0] :: shard[1]]:
        file = folder / f"{run.hash}.json"
        task = Task(run, dataset, file, workdir=runs / run.base_name / run.hash)
        elsewhere = [*results.glob(f"*/{run.hash}.json")]
        if not is_bucket(runs):
            elsewhere += runs.glob(f"*/{run.hash}/result.json")
        for finished in [file] if file.exists() else elsewhere:
            result = read_result(finished)
            different = differences_to_run(run.config, dataset, result)
            if different and finished == file:
                field, ours, theirs = different[0]
                raise UserError(
                    f"{file} is of a run with {field} = {theirs!r}, this one has {ours!r}: give another --results"
                )
            if different:
                continue
            task.status = "done" if finished == file else "reused"
            _publish(sweep, task, result)
            break
        tasks.append(task)
    return tasks


def _publish(sweep: Sweep, task: Task, result: dict[str, Any]) -> None:
    """Writes a finished run's result file for this sweep."""
    task.accuracy = result["final"]["test/accuracy"]
    run = task.run
    study = {
        "sweep": sweep.name,
        "question": sweep.question,
        "baseline": sweep.baseline,
        "variant": run.variant,
        "variants": list(sweep.variants),
        "overrides": run.overrides,
        "command": run.command,
    }
    if result.get("study") != _as_json(study):
        write_result_file(task.result_file, {**result, "study": study})


def _as_json(value: Any) -> Any:
    """As it is after a trip through JSON, which has no tuples."""
    if isinstance(value, dict):
        return {key: _as_json(v) for key, v in value.items()}
    return [_as_json(v) for v in value] if isinstance(value, list | tuple) else value


def estimate(tasks: list[Task], *, at_once: int = 1) -> None:
    """Sets what each waiting task adds to the time of all, from a few measured steps of each distinct program."""
    seconds: dict[Any, float] = {}
    for group in groups(tasks):
        config, dataset = group[0].run.config, group[0].dataset
        experiment = build(config, dataset, num_replicas=len(group))
        program = experiment.train_steps
        if program not in seconds:
            seconds[program] = _measured_step(experiment, len(group)) / config.batch_size
        evaluated = len(experiment.after_each_epoch) * (
            len(dataset.validation_labels) or len(dataset.arrays.test_labels)
        )
        # A network's gradient takes twice what its outputs take.
        per_epoch = (experiment.feed.num_examples + evaluated / 3) * seconds[program]
        for task in group:
            task.estimate = experiment.num_epochs * per_epoch / len(group) / at_once


def _measured_step(experiment: Experiment, num_replicas: int) -> float:
    """Seconds of a training step."""
    start = experiment.initial_state
    batches = input_pipeline.epoch_batches(
        create_keys(start.seed).order,
        0,
        num_examples=experiment.feed.num_examples,
        batch_size=experiment.config.batch_size,
    )
    call = next(experiment.feed.calls(replicas.stack([batches] * num_replicas), first_step=0))
    state, metrics = replicas.stack([(start, Metrics.zero())] * num_replicas)
    steps = max(1, min(_PROBE_IMAGES // experiment.config.batch_size, call.stop))
    for stop in (0, steps, steps):  # the first only compiles, the second touches its memory for the first time
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(experiment.train_steps(state, metrics, *call._replace(stop=stop)))
        seconds = time.perf_counter() - begin
    return seconds / steps


def groups(tasks: list[Task]) -> Iterator[list[Task]]:
    """The tasks that are waiting, those together that are trained in one program."""
    waiting = [task for task in tasks if task.status == "waiting"]
    while waiting:
        first = waiting[0]
        same = [task for task in waiting if task.run.variant == first.run.variant]
        group = same[: replicas.at_once(first.run.config, len(same))]
        yield group
        waiting = [task for task in waiting if task not in group]


def set_status(group: list[Task], status: str) -> None:
    for task in group:
        task.status = status


def finish(sweep: Sweep, group: list[Task], results: list[dict[str, Any]]) -> None:
    """Writes the result files of tasks that were trained together."""
    for task, result in zip(group, results, strict=True):
        _publish(sweep, task, result)
    set_status(group, "done")


def fail(group: list[Task], reason: object) -> None:
    """Says why tasks that were trained together have no results: a variant may well ask for too much."""
    set_status(group, f"failed: {reason}")
    for task in group:
        task.estimate = 0.0

"""Trains the tasks of a sweep in this process, one group after the other."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from digits_jax import cli, train
from digits_jax.data import Dataset
from digits_jax.errors import DivergedError
from digits_jax.runs.interrupts import Interrupted, StopRequest
from digits_jax.storage import PathLike, open_path
from digits_jax.studies.results import Result, read_result
from digits_jax.studies.sweep.definition import Sweep
from digits_jax.studies.sweep.plan import PlannedRun
from digits_jax.studies.sweep.tasks import Task, fail, finish, groups, set_status


class Executor(NamedTuple):
    """Trains the tasks of a sweep.

    Attributes:
      run: as `run_tasks`, with its arguments and exceptions.
      at_once: number of groups that are trained at the same time, each as fast as one here; 0: the speed is unknown.
    """

    run: Callable[[Sweep, list[Task], float], Iterator[Task]]
    at_once: int


def run_tasks(sweep: Sweep, tasks: list[Task], deadline: float = math.inf) -> Iterator[Task]:
    """Trains the waiting tasks and yields each when it is finished or has diverged.

    Args:
      sweep: of the tasks.
      tasks: as from `create_tasks`; their status is updated.
      deadline: time, as of `time.time()`, after which no group is started but the first.

    Raises:
      Interrupted: by a signal; everything is saved.
      UserError: a run cannot continue.
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
    runs: list[PlannedRun],
    folder: PathLike,
    dataset: Dataset,
    report: Callable[[str], None],
    stop: StopRequest | None = None,
) -> list[Result]:
    """Trains runs that differ in their seed, each in `<folder>/<hash>`, and returns their results.

    Args:
      runs: of a group as from `groups`.
      folder: of their workdirs.
      dataset: their data.
      report: takes their progress, such as "epoch 2/3".
      stop: the caller's, as for `train.train_seeds`.

    Raises:
      Interrupted: by a signal; everything is saved.
      UserError: a run cannot continue.
    """
    hashes = {run.seed: run.hash for run in runs}
    with cli.quiet():
        train.train_seeds(
            runs[0].config,
            list(hashes),
            lambda config: f"{folder}/{hashes[config.seed]}",
            name=runs[0].experiment,
            dataset=dataset,
            writers=[_Progress(report, sum(runs[0].config.epochs))],
            stop=stop,
        )
    return [read_result(open_path(folder) / run.hash / "result.json") for run in runs]


class _Progress:
    """A writer of rows that reports the epoch."""

    def __init__(self, report: Callable[[str], None], num_epochs: int) -> None:
        self._report = report
        self._num_epochs = num_epochs

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._report(f"epoch {min(len(rows) + 1, self._num_epochs)}/{self._num_epochs}")

    def close(self) -> None:
        pass

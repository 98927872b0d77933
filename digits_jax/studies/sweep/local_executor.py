"""Trains the tasks of a sweep in this process, one group after the other."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from etils import epath

from digits_jax import train
from digits_jax.data import Dataset
from digits_jax.errors import DivergedError
from digits_jax.runs import console
from digits_jax.runs.interrupts import Interrupted, StopRequest
from digits_jax.studies.report.results import read_result
from digits_jax.studies.sweep.plan import Run, Sweep
from digits_jax.studies.sweep.tasks import Task, fail, finish, groups, set_status


class Executor(NamedTuple):
    """What trains the tasks of a sweep.

    Attributes:
      run: trains what is waiting; see `run_tasks`, whose arguments and exceptions it has.
      at_once: how many groups side by side, each as fast as one here; 0: as fast as nobody knows.
    """

    run: Callable[[Sweep, list[Task], float], Iterator[Task]]
    at_once: int


def run_tasks(sweep: Sweep, tasks: list[Task], deadline: float = math.inf) -> Iterator[Task]:
    """Trains what is waiting and yields each task when it is finished, or has failed because its numbers went wrong.

    Args:
      sweep: the tasks'.
      tasks: as from `create_tasks`; their status changes on the way.
      deadline: seconds as of `time.time()` after which only what has begun is finished, and the first group is begun.

    Raises:
      Interrupted: a signal asked for it; everything is saved.
      UserError: a run cannot go on.
    """
    with StopRequest() as stop:
        for number, group in enumerate(groups(tasks)):
            if stop.poll():
                raise Interrupted(stop.signum)
            if number and time.time() >= deadline:
                return
            tell = functools.partial(set_status, group)
            try:
                results = train_group([t.run for t in group], group[0].workdir.parent, group[0].dataset, tell, stop)
            except DivergedError as error:
                fail(group, error)
            else:
                finish(sweep, group, results)
            yield from group


def train_group(
    runs: list[Run], folder: epath.Path, dataset: Dataset, tell: Callable[[str], None], stop: StopRequest | None = None
) -> list[dict[str, Any]]:
    """Trains runs that differ in their seed, each in `<folder>/<hash>`, and returns what their `result.json` say.

    Args:
      runs: of a group as from `groups`.
      folder: of their workdirs.
      dataset: their data.
      tell: takes how far they are, such as "epoch 2/3".
      stop: the caller's, as for `train.train_seeds`.

    Raises:
      Interrupted: a signal asked for it; everything is saved.
      UserError: a run cannot go on.
    """
    hashes = {run.seed: run.hash for run in runs}
    with console.quiet():
        train.train_seeds(
            runs[0].config,
            list(hashes),
            lambda config: folder / hashes[config.seed],
            name=runs[0].base_name,
            dataset=dataset,
            writers=[_Progress(tell, sum(runs[0].config.epochs))],
            stop=stop,
        )
    return [read_result(folder / run.hash / "result.json") for run in runs]


class _Progress:
    """A writer of rows that tells how far their runs are."""

    def __init__(self, tell: Callable[[str], None], num_epochs: int) -> None:
        self._tell = tell
        self._num_epochs = num_epochs

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._tell(f"epoch {min(len(rows) + 1, self._num_epochs)}/{self._num_epochs}")

    def close(self) -> None:
        pass

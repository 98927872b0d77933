"""Trains one group of a sweep's runs on a node of a Ray cluster; `ray_executor.py` sends it there."""

import contextlib
import functools
import io
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import absl.logging
import filelock

from digits_jax import data, storage
from digits_jax.data import Dataset
from digits_jax.errors import InUseError, UserError
from digits_jax.runs.interrupts import Interrupted
from digits_jax.studies.results import Result
from digits_jax.studies.sweep.plan import PlannedRun
from digits_jax.studies.sweep.tasks import Report, train_group

_load_data = functools.cache(data.load_configured)  # once for all trials of a process
_IN_USE = 180  # seconds for which a lost node may still hold a folder: NFS keeps locks for 90, Ray ends it after 60


class Trial(NamedTuple):
    """A group of runs, as it is sent to a node."""

    runs: list[PlannedRun]
    folder: str  # of their workdirs, absolute or on a bucket
    sha256: str  # of their data
    start: str  # the folder that other relative paths start from, if the node has it
    cores: int
    deadline: float  # time, as of `time.time()`, after which it is not started


class Outcome(NamedTuple):
    """The return value of a node; neither results nor an error if the deadline had passed."""

    results: list[Result] | None = None
    error: UserError | None = None
    stderr: str = ""


class Stopped(Exception):
    """The node was told to end, and everything is saved: another can resume."""


def train(trial: Trial, report: Report) -> Outcome:
    """Trains a group of runs in a process that may have trained others before; raises Stopped if a signal comes."""
    if time.time() >= trial.deadline:
        return Outcome()
    absl.logging.set_verbosity(absl.logging.FATAL)  # as `cli.run` has it
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            with contextlib.suppress(OSError):
                os.chdir(trial.start)
            pin_to_cores(trial.cores)
            storage.enable_compilation_cache()
            dataset = _load_data(trial.runs[0].source)
            if dataset.sha256 != trial.sha256:
                raise UserError(
                    f"{dataset.name} has the hash {dataset.sha256} in {dataset.folder} on {socket.gethostname()}, and "
                    f"{trial.sha256} where the sweep was started: expected the same data"
                )
            return Outcome(results=_train_when_free(trial, dataset, report), stderr=stderr.getvalue())
        except Interrupted:
            raise Stopped from None
        except UserError as error:  # raised, it would become a page of Ray's
            return Outcome(error=error, stderr=stderr.getvalue())


def _train_when_free(trial: Trial, dataset: Dataset, report: Report) -> list[Result]:
    """Trains as `train_group` does, but waits while a process of a lost node still has a workdir."""
    give_up = time.monotonic() + _IN_USE
    while True:
        try:
            return train_group(trial.runs, trial.folder, dataset, report)
        except InUseError:
            if time.monotonic() > give_up:
                raise
            time.sleep(1)


_locks: list[filelock.FileLock] = []  # of this process's cores, until it ends


def pin_to_cores(count: int) -> None:
    """Pins this thread, and those it starts, to `count` cores, if possible to cores that no other trial here has.

    Ray counts CPUs but does not assign them. XLA starts a thread for each core that it may use, and the bits of a
    result depend on their number.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= count:  # also where this process has trained before
        return
    free: list[int] = []
    for core in cores:
        if len(free) == count:
            break
        lock = filelock.FileLock(Path(tempfile.gettempdir(), f"digits_jax_{os.getuid()}_core{core}.lock"))
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(blocking=False)
            _locks.append(lock)
            free.append(core)
    others = [core for core in cores if core not in free]
    os.sched_setaffinity(0, [*free, *others][:count])

"""What a node of a Ray cluster does with one group of a sweep's runs; `ray_executor.py` sends it there."""

import contextlib
import functools
import io
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import absl.logging
import filelock
from etils import epath
from ml_collections import FrozenConfigDict

from digits_jax.data import Dataset, load_configured
from digits_jax.errors import InUseError, UserError
from digits_jax.runs.interrupts import Interrupted
from digits_jax.storage import enable_compilation_cache
from digits_jax.studies.sweep.local_executor import train_group
from digits_jax.studies.sweep.plan import Run

_IN_USE = 180  # seconds for which a lost node may still hold a folder: NFS keeps locks for 90, Ray ends it after 60


class Trial(NamedTuple):
    """A group of runs, as a node gets it."""

    runs: list[Run]
    folder: str  # of their workdirs, absolute or on a bucket
    sha256: str  # of their data
    start: str  # the folder that other relative paths start from, where a node has it
    cores: int
    deadline: float  # seconds as of `time.time()` after which it is not begun


class Outcome(NamedTuple):
    """What a node returns: neither results nor an error where it was too late to begin."""

    results: list[dict[str, Any]] | None = None
    error: UserError | None = None
    said: str = ""  # on standard error


class Stopped(Exception):
    """The node was told to end, and everything is saved: another may go on."""


def train(trial: Trial, tell: Callable[[str], None]) -> Outcome:
    """Trains a group of runs in a process that may have trained others before.

    Args:
      trial: the group.
      tell: takes how far it is.

    Raises:
      Stopped: a signal, or Ray, asked for it.
    """
    if time.time() >= trial.deadline:
        return Outcome()
    absl.logging.set_verbosity(absl.logging.FATAL)  # as `cli.run` has it
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            with contextlib.suppress(OSError):
                os.chdir(trial.start)
            keep_to_cores(trial.cores)
            enable_compilation_cache()
            dataset = _load(trial.runs[0].source)
            if dataset.sha256 != trial.sha256:
                raise UserError(
                    f"{dataset.name} has the hash {dataset.sha256} in {dataset.folder} on {socket.gethostname()}, and "
                    f"{trial.sha256} where the sweep was started: expected the same data"
                )
            return Outcome(results=_train_when_free(trial, dataset, tell), said=said.getvalue())
        except Interrupted:
            raise Stopped from None
        except UserError as error:  # if it were raised, Ray would make a page of it
            return Outcome(error=error, said=said.getvalue())


@functools.cache
def _load(source: FrozenConfigDict) -> Dataset:
    return load_configured(source)


def _train_when_free(trial: Trial, dataset: Dataset, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """As `train_group`, but waits where a process of a node that is lost still has a workdir."""
    give_up = time.monotonic() + _IN_USE
    while True:
        try:
            return train_group(trial.runs, epath.Path(trial.folder), dataset, tell)
        except InUseError:
            if time.monotonic() > give_up:
                raise
            time.sleep(1)


_locks: list[filelock.FileLock] = []  # of this process's cores, until it ends


def keep_to_cores(count: int) -> None:
    """Keeps this thread, and those it starts, to so many cores; to those that no other trial here has, where there are.

    Ray counts CPUs but does not say which. XLA starts a thread for each core that it may use, and the bits of a result
    depend on how many they are.
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

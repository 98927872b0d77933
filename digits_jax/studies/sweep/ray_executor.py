"""Trains the tasks of a sweep on a Ray cluster. Ray decides which node trains what, and retries what a lost node had.

Nodes get a copy of this process's code, and need the packages that it imports. A group whose node is lost is started
again on another node, where it resumes from its latest checkpoints if its workdirs can be read there.
"""

import contextlib
import functools
import io
import math
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import absl.logging
import filelock
import jax

import digits_jax
from digits_jax import cli, data, storage
from digits_jax.config import load_config
from digits_jax.errors import ConfigError, DivergedError, InUseError, UserError
from digits_jax.runs.code import is_users
from digits_jax.runs.environment import GIT_REVISION, git_revision
from digits_jax.runs.interrupts import Interrupted, StopRequest
from digits_jax.storage import is_bucket, num_cores
from digits_jax.studies.results import Result
from digits_jax.studies.sweep.definition import Sweep
from digits_jax.studies.sweep.plan import PlannedRun
from digits_jax.studies.sweep.tasks import (
    Executor,
    Report,
    Task,
    diverge,
    fail,
    finish,
    groups,
    set_status,
    train_group,
)

_RETRIES = 10  # finite: a run may crash its process each time
_IN_USE = 180  # seconds for which a lost node may still hold a folder: NFS keeps locks for 90, Ray ends it after 60
_CODE = Path(digits_jax.__file__).parents[1]  # the copy, on a node
_load_data = functools.cache(data.load_configured)  # once for all trials of a process
_load_config = functools.cache(load_config)


class Trial(NamedTuple):
    """A group of runs, as it is sent to a node."""

    runs: list[PlannedRun]
    folder: str  # of their workdirs, absolute or on a bucket
    sha256: str  # of their data
    start: str  # the folder that other relative paths start from, if the node has it
    cores: int
    deadline: float  # time, as of `time.time()`, after which it is not started
    code: str = "check"  # as for `train.train_seeds`


class Outcome(NamedTuple):
    """The return value of a node; neither results nor an error if the deadline had passed."""

    results: list[Result] | None = None
    error: UserError | None = None
    stderr: str = ""


class Stopped(Exception):
    """The node was told to end, and everything is saved: another can resume."""


@contextlib.contextmanager
def connect(
    address: str | None = None, *, cpus: int | None = None, gpus: int | None = None, files: Iterable[Path] = ()
) -> Iterator[Executor]:
    """Connects to a Ray cluster, or starts one on this machine for as long as the context is open.

    The address is HOST:PORT of its head, "auto" on one of its nodes, or "local" to start one; by default `$RAY_ADDRESS`
    or "local". `cpus` and `gpus` are for each group of runs, as in `allocate`. The nodes get a copy of the user's
    `files`, relative to the current directory. Raises a UserError if Ray is not installed, there is no cluster at the
    address, or this machine lacks the CPUs or GPUs of a group.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # 1, Ray's default on Linux, would replace 127.0.0.1 by the machine's address in its network.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        options |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "num_cpus": num_cores()}
        options["object_store_memory"] = 80 * 2**20  # bytes; Ray requires 75 MiB, and results are kilobytes
    try:
        import ray
    except ImportError:
        raise UserError("--executor=ray needs Ray: ./launch.sh setup ray") from None
    if address not in ("local", "auto"):  # where nobody listens, Ray would try for minutes, and then end this process
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, ValueError, OverflowError) as error:
            expected = "HOST:PORT as `ray start --head` prints it, or auto on one of its nodes"
            raise UserError(f"no Ray cluster answers at {address!r} ({error}): expected {expected}") from None
    with tempfile.TemporaryDirectory() as code:  # a copy: processes that start after an edit run the same code
        for name in ("digits_jax", "configs"):
            source = _CODE / name
            if source.is_dir():  # an installed package has its configs inside
                shutil.copytree(source, Path(code, name), ignore=shutil.ignore_patterns("__pycache__"))
        for file in files:
            Path(code, file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, Path(code, file))
        try:
            ray.init(address, runtime_env={"working_dir": code, "env_vars": _environment()}, **options)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(f"the Ray cluster {address!r} cannot be used ({' '.join(str(error).split())})") from None
    try:
        jax.config.update("jax_platforms", "cpu")  # GPUs are for the trials, and JAX would take most of one's memory
        cpus, gpus, at_once = allocate(ray.nodes(), cpus=cpus, gpus=gpus)
        if not at_once:
            lacking = f"no node has the {cpus} CPUs of --ray_cpus and {gpus} GPUs of --ray_gpus"
            if address == "local":
                raise ConfigError(f"{lacking}: this machine has {num_cores()} CPUs")
            cli.warn(f"{lacking}: waiting until one joins")
        yield Executor(functools.partial(_run_tasks, cpus, gpus), at_once=0 if gpus else max(at_once, 1))
    finally:
        ray.shutdown()


def own_files(tasks: list[Task]) -> set[Path]:
    """Returns the user's config files of the tasks and the modules that these import, below the current directory.

    Raises a ConfigError if such a config is elsewhere.
    """
    here = Path.cwd().resolve()
    configs = {Path(cli.config_path(task.run.base).partition(":")[0]).resolve() for task in tasks}
    own = {path for path in configs if path.parent != cli.configs_directory().resolve()}
    for path in own:
        if not path.is_relative_to(here):
            raise ConfigError(f"{path} is not below {here}, the directory from which --executor=ray copies configs")
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    modules = {Path(file).resolve() for file in files if file}
    return {path.relative_to(here) for path in own | modules if path.is_relative_to(here) and is_users(path)}


def _environment() -> dict[str, str]:
    """Returns the variables that decide how JAX computes, where data are, and which commit the code is."""
    found = {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_", "TFDS_DATA_DIR"))}
    return found | ({GIT_REVISION: revision} if (revision := git_revision()) else {})


def allocate(nodes: list[dict[str, Any]], *, cpus: int | None, gpus: int | None) -> tuple[int, int, int]:
    """Returns the CPUs and GPUs of a group of runs, and how many groups the `ray.nodes()` can train at the same time.

    A group gets by default one GPU if there are any, and their share of the CPUs, or else this process's cores.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    have = [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in alive]
    all_cpus, all_gpus = sum(its_cpus for its_cpus, _ in have), sum(its_gpus for _, its_gpus in have)
    if gpus is None:
        gpus = min(all_gpus, 1)
    if cpus is None:
        cpus = max(1, gpus * all_cpus // all_gpus) if gpus and all_gpus else num_cores()
    return cpus, gpus, sum(min(its_cpus // cpus, its_gpus // gpus if gpus else its_cpus) for its_cpus, its_gpus in have)


def _run_tasks(cpus: int, gpus: int, sweep: Sweep, tasks: list[Task], deadline: float = math.inf) -> Iterator[Task]:
    """Does on a cluster what `tasks.run_tasks` does here."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    progress = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES, retry_exceptions=[Stopped])(_train)
    pending: dict[Any, list[Task]] = {}
    with StopRequest() as stop:
        try:
            for group in groups(tasks):
                folder = group[0].folder if is_bucket(group[0].folder) else os.path.abspath(group[0].folder)
                runs, last_start = [task.run for task in group], deadline if pending else math.inf
                trial = Trial(runs, folder, group[0].dataset.sha256, os.getcwd(), cpus, last_start, group[0].code)
                pending[remote.remote(trial, progress)] = group
            while pending:
                ready, _ = ray.wait(list(pending), timeout=0.5)
                statuses = dict(progress.get_nowait_batch(progress.qsize()))
                for group in pending.values():
                    set_status(group, statuses.get(group[0].run.hash, group[0].status))
                if stop.poll():
                    raise Interrupted(stop.signum)
                for result in ready:
                    yield from _settle(sweep, pending.pop(result), result)
        finally:
            for result in pending:
                ray.cancel(result)
            for result, group in pending.items():  # waits until it is saved, and keeps what is finished meanwhile
                with contextlib.suppress(UserError, ray.exceptions.RayError):
                    _settle(sweep, group, result)


def _train(trial: Trial, progress: Any) -> Outcome:
    import ray

    def report(status: str) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            progress.put((trial.runs[0].hash, status))

    return train(trial, report)


def _settle(sweep: Sweep, group: list[Task], result: Any) -> list[Task]:
    """Handles what a node returned for a group: returns its tasks if it is finished or has diverged, or raises."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    try:
        outcome = ray.get(result)
    except (NodeDiedError, OutOfMemoryError, WorkerCrashedError, Stopped) as error:
        fail(group, f"its process ended {_RETRIES + 1} times, the last time by {type(error).__name__}")
        return group
    print(outcome.stderr, end="", file=sys.stderr)
    if isinstance(outcome.error, DivergedError):
        diverge(sweep, group, outcome.error)
    elif outcome.error:
        raise outcome.error
    elif outcome.results is None:
        return []
    else:
        finish(sweep, group, outcome.results)
    return group


def train(trial: Trial, report: Report) -> Outcome:
    """Trains a group of runs in a process that may have trained others before; raises Stopped if a signal comes."""
    if time.time() >= trial.deadline:
        return Outcome()
    absl.logging.set_verbosity(absl.logging.FATAL)  # as `cli.run` has it
    with contextlib.suppress(OSError):
        os.chdir(trial.start)
    pin_to_cores(trial.cores)
    give_up = time.monotonic() + _IN_USE
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        storage.enable_compilation_cache()
        while True:
            try:
                _register(trial)
                dataset = _load_data(trial.runs[0].source)
                if dataset.sha256 != trial.sha256:
                    here = f"{dataset.sha256} in {dataset.folder} on {socket.gethostname()}"
                    there = f"{trial.sha256} where the sweep was started"
                    raise UserError(f"{dataset.name} has the hash {here}, and {there}: expected the same data")
                results = train_group(trial.runs, trial.folder, dataset, report, code=trial.code)
                return Outcome(results, stderr=stderr.getvalue())
            except Interrupted:
                raise Stopped from None
            except UserError as error:  # raised, it would become a page of Ray's
                if not isinstance(error, InUseError) or time.monotonic() > give_up:
                    return Outcome(error=error, stderr=stderr.getvalue())
                time.sleep(1)  # a process of a lost node still has a workdir


def _register(trial: Trial) -> None:
    """Loads the copy of the config file, which may register what the runs use."""
    file = Path(trial.start, cli.config_path(trial.runs[0].base).partition(":")[0])
    _load_config(str(_CODE / file.relative_to(trial.start) if file.is_relative_to(trial.start) else file))


_locks: list[filelock.FileLock] = []  # of this process's cores, until it ends


def pin_to_cores(count: int) -> None:
    """Pins this thread, and those it starts, to `count` cores, if possible to cores that no other trial here has.

    Ray counts CPUs but does not assign them. XLA starts a thread for each core that it may use, and the bits of a
    result depend on their number.
    """
    if not hasattr(os, "sched_setaffinity") or num_cores() <= count:  # the latter also where it has trained before
        return
    cores = sorted(os.sched_getaffinity(0))
    free: set[int] = set()
    for core in cores:
        if len(free) < count:
            lock = filelock.FileLock(Path(tempfile.gettempdir(), f"digits_jax_{os.getuid()}_core{core}.lock"))
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(blocking=False)
                _locks.append(lock)
                free.add(core)
    os.sched_setaffinity(0, sorted(cores, key=lambda core: core not in free)[:count])

"""Several processes as one program, on JAX's own distributed runtime.

All run the same code on the same stream of indices, and JAX joins their devices into one mesh. Process 0 alone reads
and writes the run's folder; what it reads it tells the others. A process alone passes through the same functions.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import FrozenConfigDict

from digits_jax.config import differences
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs.workdir import describe_run, differences_to_run

T = TypeVar("T")


class Cluster(NamedTuple):
    """Where the processes meet, as given on the command line; None where the environment is to say it."""

    coordinator: str | None  # HOST:PORT of process 0
    num_processes: int | None
    process_id: int | None
    bind_address: str | None  # HOST:PORT that process 0 listens on; None: all of its addresses
    peer_timeout: int  # seconds without a sign of life after which a process counts as dead


def initialize(cluster: Cluster) -> None:
    """Joins the other processes, where the command line or the environment (SLURM, Open MPI, a TPU pod) has any.

    Has to be called before JAX computes anything.

    Raises:
      ConfigError: the flags do not fit together.
      UserError: the others are not there.
    """
    given = (cluster.coordinator, cluster.num_processes, cluster.process_id)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ConfigError("--coordinator, --num_processes and --process_id are given together, or none of them")
    if cluster.coordinator is None and not _is_cluster():
        return
    # JAX would take SIGTERM for itself; the processes agree on stopping by `Agreement`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            coordinator_bind_address=cluster.bind_address,
            heartbeat_timeout_seconds=cluster.peer_timeout,
            initialization_timeout=5 * cluster.peer_timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes do not find each other ({' '.join(str(error).split())[:300]})") from None


def _is_cluster() -> bool:
    """Whether this process was started as one of several by what JAX knows to ask for the others."""
    sizes = ("SLURM_NTASKS" if "SLURM_STEP_NODELIST" in os.environ else "", "OMPI_COMM_WORLD_SIZE")
    has_tpu = "TPU_ML_PLATFORM" in os.environ  # JAX sets it, on import, where it finds one
    return has_tpu or any(int(os.environ.get(name, 1)) > 1 for name in sizes)


@contextlib.contextmanager
def ending_with_others(peer_timeout: int) -> Iterator[None]:
    """Around training: where another process is gone, this one says so and ends, within twice the timeout.

    The first to notice is the transport, which does not know who it was. JAX's own runtime then ends the process with
    a page that does, as soon as the timeout has passed.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).partition("] ")[2] or str(error)
        print(
            f"error: another process is gone ({reason}): which one, the lines below say within {peer_timeout} seconds; "
            "start all again to go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(2 * peer_timeout)
        os._exit(1)  # an orderly end would wait for the others


def is_first() -> bool:
    """Whether this is process 0."""
    return jax.process_index() == 0


def from_first(arrays: T, facts: Any = None) -> tuple[T, Any]:
    """What process 0 has, in all processes, to the last bit.

    Args:
      arrays: a pytree of arrays, of the same shapes in all processes.
      facts: of process 0, whatever JSON can hold. Nothing that is received can run code.

    Returns:
      Both, as process 0 gave them.
    """
    if jax.process_count() == 1:
        return arrays, facts
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, arrays))
    # As bytes, because what is sent is added up, and -0.0 + 0.0 is 0.0. One more, for where there are none.
    sent = np.frombuffer(b"".join([*(leaf.tobytes() for leaf in leaves), b" "]), np.uint8)
    parts = np.split(multihost_utils.broadcast_one_to_all(sent), np.cumsum([leaf.nbytes for leaf in leaves]))
    received = [part.view(leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=False)]
    text = _gather_text(json.dumps(facts) if is_first() else "")[0]
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in received]), json.loads(text)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around what may fail in one process: a UserError inside is raised in all of them, so that none waits for it."""
    problem = None
    try:
        yield
    except UserError as error:
        problem = error
    if jax.process_count() == 1:
        if problem:
            raise problem
        return
    for process, text in enumerate(_gather_text(str(problem) if problem else "")):
        if text.strip():
            raise problem or UserError(f"process {process}: {text.strip()}")


def check_same(config: FrozenConfigDict, dataset: Dataset) -> None:
    """Compares config, data, code and versions of all processes.

    Raises:
      UserError: in all of them, where one would train something else than process 0.
    """
    mine = describe_run(config, dataset)
    _, first = from_first((), mine)
    with together():
        code, code_of_first = ({key: run[key] for key in ("git_revision", "versions")} for run in (mine, first))
        for field, ours, theirs in differences_to_run(config, dataset, first) + differences(code, code_of_first):
            raise UserError(f"it has {field} = {ours!r}, and process 0 has {theirs!r}: start all with the same")


def _gather_text(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.process_allgather(np.int32(encoded.size)).max())
    rows = multihost_utils.process_allgather(np.pad(encoded, (0, size - encoded.size), constant_values=ord(" ")))
    return [row.tobytes().decode() for row in rows]


class Agreement:
    """Lets all processes stop after the same call, to whichever of them and whenever a signal comes.

    What each has been asked is compared by a tiny program that is started along with a call of training steps, and
    whose answer is read before the call after it: nothing stands still for it.
    """

    def __init__(self) -> None:
        self._answer: jax.Array | None = None

    def __call__(self, signum: int) -> int:
        """Sends a signal's number, 0 for none; returns the largest that a process sent the last time.

        A process alone is answered at once.
        """
        if jax.process_count() == 1:
            return signum
        mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
        mine = np.full(jax.local_device_count(), signum, np.int32)
        sent = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("all")), mine)
        answer, self._answer = self._answer, _largest(sent)
        return int(answer) if answer is not None else 0


@jax.jit
def _largest(numbers: jax.Array) -> jax.Array:
    return numbers.max()

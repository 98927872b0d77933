"""Several processes that train as one program, on JAX's distributed runtime.

All run the same code on the same order of images, and JAX joins their devices into one mesh. Process 0 alone reads and
writes the run's directory, and broadcasts what it reads. A single process passes through the same functions.
"""

import atexit
import contextlib
import json
import os
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax._src import clusters
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from digits_jax.errors import ConfigError, UserError
from digits_jax.parallel import peers

_peers: peers.Peers  # of a program of several processes


def initialize(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    bind_address: str | None = None,
    peer_timeout: int = 30,
) -> None:
    """Joins the other processes of this program, if there are any, before JAX computes anything.

    The arguments are the flags of `main.py`. Where the first three are None, SLURM, Open MPI or a TPU pod sets them.
    Raises a ConfigError if they do not fit together, a UserError if the port is in use or the others are not reached.
    """
    given = (coordinator, num_processes, process_id)
    if 0 < given.count(None) < 3:
        raise ConfigError("--coordinator, --num_processes and --process_id are given together, or none of them")
    if coordinator is None and not _is_cluster():
        return
    wait = 5 * peer_timeout
    try:  # as JAX itself does
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(*given, None, None, wait)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes do not find each other ({' '.join(str(error).split())[:300]})") from None
    address, count, process = str(found[0]), int(found[1] or 1), int(found[2] or 0)
    if process >= count:
        raise ConfigError(f"--process_id is {process}: expected less than --num_processes, which is {count}")
    if process:
        links = peers.join(_split("coordinator", address), process, count, wait)
    else:
        links = peers.gather(_listen(address, bind_address), count, wait)
    # JAX would take SIGTERM for itself; the processes agree on stopping by `Agreement`.
    jax.config.update("jax_enable_preemption_service", False)
    # `Peers` notices long before JAX that one is gone.
    names = ("heartbeat_timeout_seconds", "initialization_timeout", "shutdown_timeout_seconds")
    timeouts: dict[str, Any] = dict.fromkeys(names, 20 * peer_timeout)
    global _peers
    with tempfile.TemporaryDirectory() as folder:
        if len(folder) > 95:
            raise UserError(f"sockets cannot be made in {folder}: set TMPDIR to a shorter path")
        _peers = peers.Peers(links, peer_timeout, Path(folder, "jax"))
        relay = f"unix:{folder}/jax"
        jax.distributed.initialize(relay, count, process, coordinator_bind_address=relay, **timeouts)
    atexit.register(_peers.leave)


def _is_cluster() -> bool:
    """Returns whether the environment, as JAX reads it, has this process as one of several."""
    sizes = ("SLURM_NTASKS" if "SLURM_STEP_NODELIST" in os.environ else "", "OMPI_COMM_WORLD_SIZE")
    has_tpu = "TPU_ML_PLATFORM" in os.environ  # JAX sets it, on import, where it finds one
    return has_tpu or any(int(os.environ.get(name, 1)) > 1 for name in sizes)


def _listen(coordinator: str, bind_address: str | None) -> socket.socket:
    """Returns the socket on which process 0 waits for the others: on the given address, or on all."""
    host, port = _split("bind_address", bind_address) if bind_address else ("", _split("coordinator", coordinator)[1])
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        address = bind_address or coordinator
        reason = str(error.strerror).partition(" (")[0]
        raise UserError(f"process 0 cannot listen on {address} ({reason}): choose another port") from None


def _split(flag: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not (port.isdecimal() and int(port) < 2**16):
        raise ConfigError(f"--{flag} is {address!r}: expected HOST:PORT, such as 10.0.0.1:1234")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def ending_with_others(peer_timeout: int) -> Iterator[None]:
    """Ends this process at once where it alone fails, and with one line where a collective fails.

    The transport of collectives notices first that a process is gone, and does not know which one; `Peers` does.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or hasattr(error, "exit_code"):  # all processes raise the latter
            raise
        # Where a compiled call itself fails, JAX raises ValueError: "UNKNOWN: Gloo AllGather failed: ...".
        if isinstance(error, jax.errors.JaxRuntimeError) or re.match("[A-Z_]+: ", str(error)):
            time.sleep(2 * peer_timeout)  # `Peers` ends this process meanwhile
            _peers.end(f"another process is gone ({str(error).partition('] ')[2] or error})")
        is_interrupt = isinstance(error, KeyboardInterrupt)
        print("interrupted" if is_interrupt else traceback.format_exc(), file=sys.stderr, flush=True)
        os._exit(130 if is_interrupt else 1)  # an orderly end would wait for the others


def is_first() -> bool:
    """Returns whether this is process 0."""
    return jax.process_index() == 0


def from_first(arrays: Any, metadata: Any = None) -> tuple[Any, Any]:
    """Broadcasts arrays and metadata of process 0 to all processes, bit for bit.

    Arrays are a pytree, of the same shapes in all processes. Metadata have JSON's types, so that nothing that is
    received can run code.
    """
    if jax.process_count() == 1:
        return arrays, metadata
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, arrays))
    # As bytes, because a broadcast is a sum, and -0.0 + 0.0 is 0.0. One more, for where there are no arrays.
    sent = np.frombuffer(b"".join([*(leaf.tobytes() for leaf in leaves), b" "]), np.uint8)
    parts = np.split(multihost_utils.broadcast_one_to_all(sent), np.cumsum([leaf.nbytes for leaf in leaves]))
    received = [part.view(leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=False)]
    text = _gather_text(json.dumps(metadata) if is_first() else "")[0]
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in received]), json.loads(text)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises a UserError of one process in all of them, so that none waits for it."""
    problem = None
    try:
        yield
    except UserError as error:
        if jax.process_count() == 1:
            raise
        problem = error
    if jax.process_count() == 1:
        return
    for process, text in enumerate(_gather_text(str(problem) if problem else "")):
        if text.strip():
            raise problem or UserError(f"process {process}: {text.strip()}")


def check_same(description: dict[str, Any]) -> None:
    """Raises a UserError in all processes where the description of one differs from process 0; it names the field."""
    ours = traverse_util.flatten_dict(json.loads(json.dumps(description)), sep=".")
    _, firsts = from_first((), ours)
    with together():
        for field in sorted(ours.keys() | firsts.keys()):
            mine, theirs = ours.get(field), firsts.get(field)
            if mine != theirs:
                raise UserError(f"it has {field} = {mine!r}, and process 0 has {theirs!r}: start all with the same")


def _gather_text(text: str) -> list[str]:
    """Returns the texts of all processes, in their order."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.process_allgather(np.int32(encoded.size)).max())
    rows = multihost_utils.process_allgather(np.pad(encoded, (0, size - encoded.size), constant_values=ord(" ")))
    return [row.tobytes().decode() for row in rows]


class Agreement:
    """An agreement of all processes to stop after the same call, whichever of them receives the signal.

    A tiny program, started along with each call of training steps, takes the maximum of the signals. Its result is read
    before the next call, so that training does not wait for it.
    """

    def __init__(self) -> None:
        self._answer: jax.Array | None = None

    def __call__(self, signum: int) -> int:
        """Sends the number of a signal, 0 for none, and returns the largest of the previous call.

        A single process gets its own back.
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

"""The devices as a mesh of two axes: replicas (`replicas.py`) are sharded over `seed`, batches over `data`.

Shardings are given where arrays are put on the mesh and, for each batch, inside the compiled step; XLA inserts the
all-reduces. One device is a mesh of one.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create_mesh(num_replicas: int = 1, *, num_devices: int | None = None) -> Mesh:
    """Creates the mesh: along `seed` as many devices as share the replicas evenly, along `data` what that leaves."""
    num_devices = num_devices or jax.device_count()
    seeds = max(n for n in range(1, num_devices + 1) if num_replicas % n == 0)
    shape = (seeds, num_devices // seeds)
    devices = jax.devices()[: seeds * shape[1]]
    return jax.make_mesh(shape, ("seed", "data"), devices=devices, axis_types=(AxisType.Auto, AxisType.Auto))


def put(tree: Any, mesh: Mesh, *axes: str | None) -> Any:
    """Shards the leading dimensions of each array over the given axes of the mesh; without axes it is replicated.

    On a mesh of one device nothing is copied, but `jax.jit` compiles a program of its own for arrays that are on it.
    """
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """Shards the arrays `[B, ...]` of a batch over `data`, inside a compiled function.

    Arrays whose B is no multiple of the number of devices along `data` are replicated: each device computes all of it.
    """

    def shard(x: jax.Array) -> jax.Array:
        axes = () if len(x) % mesh.shape["data"] else ("data",)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(shard, tree)


def describe_uneven_batch(batch_size: int, mesh: Mesh) -> str | None:
    """Returns a warning with the sizes next to a batch size that the devices can share; None if they can share it."""
    devices = mesh.shape["data"]
    if batch_size % devices == 0:
        return None
    below = batch_size // devices * devices
    sizes = " or ".join(str(size) for size in (below, below + devices) if size)
    return (
        f"config.batch_size is {batch_size}, which {devices} devices cannot share evenly, so that each computes "
        f"every batch: {sizes} would be shared"
    )

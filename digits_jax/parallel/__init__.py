"""Device meshes, several seeds in one program, several processes.

`mesh.py` shards batches over devices, `replicas.py` stacks the states of several seeds, and `distributed.py` joins
processes. One device is a mesh of one, and one process passes through the same functions.
"""

from digits_jax.parallel.distributed import (
    Agreement,
    check_same,
    ending_with_others,
    from_first,
    initialize,
    is_first,
    together,
)  # fmt: skip
from digits_jax.parallel.mesh import create_mesh, describe_uneven_batch, put, shard_batch
from digits_jax.parallel.replicas import seeds_at_once, stack, unstack

__all__ = [
    "Agreement", "check_same", "create_mesh", "describe_uneven_batch", "ending_with_others", "from_first", "initialize",
    "is_first", "put", "seeds_at_once", "shard_batch", "stack", "together", "unstack",
]  # fmt: skip

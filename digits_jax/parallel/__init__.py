"""Device meshes, several seeds in one program, several processes."""

from digits_jax.parallel.distributed import (
    Agreement,
    Cluster,
    check_same,
    ending_with_others,
    from_first,
    initialize,
    is_first,
    together,
)
from digits_jax.parallel.mesh import create_mesh, put, shard_batch
from digits_jax.parallel.replicas import at_once as seeds_at_once
from digits_jax.parallel.replicas import stack, unstack

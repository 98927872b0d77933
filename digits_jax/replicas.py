"""Several seeds in one compiled program: their states stacked along a leading axis.

`experiment.py` maps the training and evaluation steps over that axis with `vmap`. It is the axis `seed` of the mesh:
each device trains the same number of replicas, and nothing travels between them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict


def at_once(config: ConfigDict | FrozenConfigDict, count: int) -> int:
    """How many of `count` seeds of a config are trained in one program; those left over follow.

    On one CPU the seeds run one after the other, each on all cores with its own activations in the cache: eight at once
    take 1.3 times as long for `vgg`, 1.2 for `bn_dropout` and 0.8 for `linear`, which takes seconds anyway. Where seeds
    may stop at different epochs, or images come from the host, they do so too.
    """
    if config.early_stopping_epochs or config.dataset.feed == "host":
        return 1
    if config.seeds_at_once:
        return min(count, config.seeds_at_once)
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    return 1 if one_cpu else count


def stack(trees: Sequence[Any]) -> Any:
    """Pytrees of equal shapes as one with a leading axis, sharded over the devices; a single one as it is."""
    if len(trees) == 1:
        return trees[0]
    return spread(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees), len(trees))


def unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of `stack`; all on the first device."""
    if count == 1:
        return [tree]
    on_host = jax.device_get(tree)
    return [jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), on_host) for i in range(count)]  # noqa: B023


def spread(stacked: Any, count: int) -> Any:
    """Puts each replica's part of a stacked pytree on its device."""
    return _put(stacked, count, PartitionSpec("seed"))


def copy_to_all(tree: Any, count: int) -> Any:
    """Puts what `count` replicas share on each of their devices."""
    return _put(tree, count, PartitionSpec())


def _put(tree: Any, count: int, spec: PartitionSpec) -> Any:
    # The most devices that share the replicas evenly. One device needs no mesh.
    size = max(n for n in range(1, jax.device_count() + 1) if count % n == 0)
    if size == 1:
        return tree
    mesh = jax.make_mesh((size,), ("seed",), devices=jax.devices()[:size], axis_types=(AxisType.Auto,))
    return jax.device_put(tree, NamedSharding(mesh, spec))

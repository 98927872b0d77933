"""Metrics as sums and counts, divided once at the end; tables of further metrics and of functions to call."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import struct

from digits_jax.tables import Table


class Metrics(struct.PyTreeNode):
    """Sums over examples, so that batches of any size add up exactly."""

    loss_sum: jax.Array  # float32 [], softmax cross-entropy in nats
    correct: jax.Array  # int32 [], correctly classified examples
    count: jax.Array  # int32 []
    more: Mapping[str, jax.Array] = struct.field(default_factory=dict)  # of `METRICS`, float32 [], times the examples

    @classmethod
    def zero(cls, more: Sequence[str] = ()) -> "Metrics":
        """Returns the metrics of no examples, with those of `METRICS` that are named."""
        none, nothing = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)  # also where JAX computes in 64 bits
        return cls(nothing, none, none, dict.fromkeys(more, nothing))

    @classmethod
    def of_batch(cls, logits: jax.Array, labels: jax.Array) -> "Metrics":
        """Returns the metrics of logits `[B, num_classes]` and labels `[B]`, or `[B, num_classes]` of mixed images."""
        is_mixed = labels.ndim == 2
        loss = optax.softmax_cross_entropy if is_mixed else optax.softmax_cross_entropy_with_integer_labels
        return cls(
            loss_sum=loss(logits, labels).sum(),
            correct=jnp.sum(logits.argmax(-1) == (labels.argmax(-1) if is_mixed else labels), dtype=jnp.int32),
            count=jnp.asarray(len(labels), jnp.int32),
        )

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(jnp.add, self, other)

    def compute(self, prefix: str) -> dict[str, float]:
        """Returns the means as Python numbers: `{prefix}/loss` in nats and `{prefix}/accuracy` in [0, 1]."""
        sums = jax.device_get(self)
        count = int(sums.count)
        means = {"loss": float(sums.loss_sum) / count, "accuracy": int(sums.correct) / count}
        means |= {name: float(value) / count for name, value in sums.more.items()}
        return {f"{prefix}/{name}": value for name, value in means.items()}


# Takes the gradients, the updates and the parameters before them, as in a training step; returns a float32 scalar.
METRICS = Table(
    {
        "gradient_norm": lambda gradients, updates, params: optax.tree.norm(gradients),
        "update_norm": lambda gradients, updates, params: optax.tree.norm(updates),
        "parameter_norm": lambda gradients, updates, params: optax.tree.norm(params),
    }
)
# Takes the `Experiment`, the state after an epoch and the epoch's row of metrics; may return more values for the row.
CALLBACKS = Table({})

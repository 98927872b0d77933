"""Metrics as sums and counts, divided once at the end."""

import jax
import jax.numpy as jnp
import optax
from flax import struct


class Metrics(struct.PyTreeNode):
    """Sums over examples, so that batches of any size add up exactly."""

    loss_sum: jax.Array  # float32 [], softmax cross-entropy in nats
    correct: jax.Array  # int32 [], correctly classified examples
    count: jax.Array  # int32 []

    @classmethod
    def zero(cls) -> "Metrics":
        """Returns the metrics of no examples."""
        return cls(*(jnp.zeros((), dtype) for dtype in (jnp.float32, jnp.int32, jnp.int32)))

    @classmethod
    def of_batch(cls, logits: jax.Array, labels: jax.Array) -> "Metrics":
        """Returns the metrics of logits `[B, num_classes]` and labels `[B]`."""
        return cls(
            loss_sum=optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum(),
            correct=jnp.sum(logits.argmax(-1) == labels, dtype=jnp.int32),
            count=jnp.asarray(len(labels), jnp.int32),
        )

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(jnp.add, self, other)

    def compute(self, prefix: str) -> dict[str, float]:
        """Returns the means as Python numbers: `{prefix}/loss` in nats and `{prefix}/accuracy` in [0, 1]."""
        sums = jax.device_get(self)
        count = int(sums.count)
        return {f"{prefix}/loss": float(sums.loss_sum) / count, f"{prefix}/accuracy": int(sums.correct) / count}

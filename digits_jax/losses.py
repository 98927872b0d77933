"""Losses: what training minimizes."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from digits_jax.bounds import PROBABILITY
from digits_jax.data import Examples
from digits_jax.tables import Field, Table

# Takes float32 logits [B, num_classes], the batch as augmented, and the parameters; returns each example's loss [B],
# whose mean is minimized. Labels are int32 [B], or float32 [B, num_classes] where an augmentation has mixed them.
Loss = Callable[[jax.Array, Examples, Any], jax.Array]


def cross_entropy(*, label_smoothing: float = 0.0) -> Loss:
    """Builds softmax cross-entropy in nats, with labels smoothed by `label_smoothing` (Szegedy et al. 2016, sec. 7)."""

    def loss(logits: jax.Array, batch: Examples, params: Any) -> jax.Array:
        labels = batch.labels
        if labels.ndim == 1 and not label_smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        targets = jax.nn.one_hot(labels, logits.shape[-1]) if labels.ndim == 1 else labels
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))

    return loss


LOSSES = Table(
    {"cross_entropy": cross_entropy},
    {"label_smoothing": Field(float, PROBABILITY, "weight of the uniform distribution in the targets")},
)


def create_loss(loss_config: ConfigDict) -> Loss:
    """Builds the loss that `config.loss` names."""
    return LOSSES.create(loss_config.name, loss_config)

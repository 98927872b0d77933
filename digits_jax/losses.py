"""Losses: what training minimizes."""

from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

# Takes float32 logits [B, num_classes] and int32 labels [B]; returns each example's loss [B], whose mean is minimized.
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(config: ConfigDict) -> Loss:
    """Builds softmax cross-entropy in nats, with labels smoothed by `label_smoothing` (Szegedy et al. 2016, sec. 7)."""
    if not config.label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets)

    return loss


LOSSES: dict[str, Callable[[ConfigDict], Loss]] = {"cross_entropy": cross_entropy}


def create_loss(config: ConfigDict) -> Loss:
    """Builds the configured loss."""
    return LOSSES[config.loss](config)

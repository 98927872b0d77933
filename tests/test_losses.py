"""What training minimises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.config import get_config
from digits_jax.data import Examples
from digits_jax.losses import create_loss

LOGITS = jax.random.normal(jax.random.key(0), (4, 10))
LABELS = jnp.array([0, 3, 9, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_to_smoothed_labels(smoothing: float) -> None:
    config = get_config()
    config.loss.label_smoothing = smoothing
    of_label = -jax.nn.log_softmax(LOGITS)[jnp.arange(4), LABELS]
    of_all = -jax.nn.log_softmax(LOGITS).mean(1)
    expected = (1 - smoothing) * of_label + smoothing * of_all
    np.testing.assert_allclose(create_loss(config.loss)(LOGITS, Examples(None, LABELS), None), expected, rtol=1e-5)

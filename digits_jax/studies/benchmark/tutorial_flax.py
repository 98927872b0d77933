"""The VGG-like network trained as Flax tutorials do, and the remedies that make it as fast as this project."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training import train_state
from jax import lax
from ml_collections import ConfigDict

from digits_jax import ops
from digits_jax.apps.speed import Pass
from digits_jax.data import Dataset
from digits_jax.models import normalize


class TutorialCNN(nn.Module):
    """A config's VGG as Flax tutorials write it: `nn.Conv` on `lax.conv_general_dilated`, and `nn.max_pool`."""

    model_config: Any
    conv: Callable[..., jax.Array] = lax.conv_general_dilated
    max_pool: Callable[[jax.Array], jax.Array] = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        fields = self.model_config
        statistics = {"momentum": fields.bn_momentum, "epsilon": fields.bn_epsilon}
        norm = partial(nn.BatchNorm, use_running_average=not train, **statistics)

        def activation(x: jax.Array) -> jax.Array:
            x = norm()(x) if fields.batch_norm == "before" else x
            x = nn.relu(x)
            return norm()(x) if fields.batch_norm == "after" else x

        for widths, rate in zip(fields.widths, fields.block_dropout, strict=True):
            for width in widths:
                x = activation(nn.Conv(width, (3, 3), padding="VALID", conv_general_dilated=self.conv)(x))
            x = self.max_pool(x)
            x = nn.Dropout(rate, deterministic=not train)(x)
        x = x.reshape(x.shape[0], -1)
        x = activation(nn.Dense(fields.hidden_width)(x))
        x = nn.Dropout(fields.hidden_dropout, deterministic=not train)(x)
        return nn.Dense(10)(x)


class TrainState(train_state.TrainState):
    """The state with the running statistics of batch normalization."""

    batch_stats: Any


def training_pass(
    config: ConfigDict, dataset: Dataset, *, in_scan: bool = False, kernels: str = "lax", **layers: Any
) -> Pass:
    """Returns a function that trains for one epoch: a Python loop over jitted steps, each with a batch from NumPy.

    With `in_scan`, all steps run in one `lax.scan` over images on the device; `kernels` are those of `ops.using`, and
    `layers` fields of `TutorialCNN`.
    """
    model = TutorialCNN(config.model, **layers)
    images, labels = dataset.split("train")
    mean, std = float(images.mean()), float(images.std())
    variables = {"batch_stats": {}, **model.init(jax.random.key(0), jnp.zeros((1, *dataset.image_shape)), train=False)}
    state = TrainState.create(apply_fn=model.apply, tx=optax.sgd(config.learning_rates[0]), **variables)
    order = np.random.default_rng(0).permutation(len(labels))
    batches = order[: len(order) // config.batch_size * config.batch_size].reshape(-1, config.batch_size)

    @ops.using(kernels)
    def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            rngs = {"dropout": jax.random.fold_in(jax.random.key(1), state.step)}
            inputs = normalize(images, mean, std)
            logits, updates = state.apply_fn(variables, inputs, train=True, mutable=["batch_stats"], rngs=rngs)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, updates.get("batch_stats", {})

        gradients, batch_stats = jax.grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients, batch_stats=batch_stats)

    def scan_steps(state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
        return lax.scan(lambda s, rows: (train_step(s, images[rows], labels[rows]), None), state, batches)[0]

    jitted = jax.jit(scan_steps if in_scan else train_step)
    on_device = jax.device_put((images, labels))

    def train_epoch() -> None:
        nonlocal state
        if in_scan:
            state = jitted(state, *on_device)
        else:
            for rows in batches:
                state = jitted(state, images[rows], labels[rows])
        jax.block_until_ready(state.params)

    return train_epoch


_POOL: dict[str, Any] = {"max_pool": ops.max_pool_2x2}
_CONV: dict[str, Any] = {**_POOL, "conv": ops.conv_general_dilated}

# The steps from tutorial Flax to this project, as options of `training_pass`: each adds a change to those before it.
REMEDIES: dict[str, dict[str, Any]] = {
    "tutorial Flax": {},
    "tutorial Flax in lax.scan": {"in_scan": True},
    "1. max-pool as a maximum of slices": _POOL,
    "2. convolutions as matrix products": {**_CONV, "kernels": "matmul"},
    "3. Winograd's transforms": {**_CONV, "kernels": "winograd"},
    "4. steps in one compiled call": {**_CONV, "kernels": "winograd", "in_scan": True},
}

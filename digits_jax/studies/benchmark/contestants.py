"""The programs that `benchmark.py` times against each other, each doing the same work its own community's way.

All train the network of a config on the same uint8 images, and each returns a function that takes one pass over them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax import lax
from ml_collections import ConfigDict

from digits_jax import input_pipeline
from digits_jax.config import resolve
from digits_jax.data import Arrays, Dataset
from digits_jax.experiment import Experiment, build
from digits_jax.metrics import Metrics
from digits_jax.ops import conv
from digits_jax.ops.layers import max_pool_2x2, normalize
from digits_jax.parallel import replicas
from digits_jax.storage import num_cores
from digits_jax.train_step import create_keys

# Takes one pass over the images and returns when it is done.
Pass = Callable[[], None]


def random_arrays(num_train: int, num_test: int) -> Arrays:
    """Random pixels and labels in MNIST's shape: speed does not depend on what they show."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_train + num_test, 28, 28, 1), np.uint8)
    labels = random.integers(0, 10, num_train + num_test).astype(np.uint8)
    return Arrays(images[:num_train], labels[:num_train], images[num_train:], labels[num_train:])


def digits_jax_experiment(config: ConfigDict, arrays: Arrays) -> Experiment:
    dataset = Dataset(
        name="random",
        num_classes=10,
        arrays=arrays,
        validation_images=arrays.test_images[:0],
        validation_labels=arrays.test_labels[:0],
        sha256="",
        folder=Path(),
    )
    return build(resolve(config, dataset), dataset)


def digits_jax_training(config: ConfigDict, arrays: Arrays) -> Pass:
    """This project, as a run takes its steps: from uint8 images on the device to the updated state."""
    experiment = digits_jax_experiment(config, arrays)
    batches = input_pipeline.epoch_batches(
        create_keys(config.seed).order, 0, num_examples=len(arrays.train_labels), batch_size=config.batch_size
    )
    state, zero, batches = replicas.stack([(experiment.initial_state, Metrics.zero(), batches)])

    def take_steps() -> None:
        nonlocal state
        metrics = zero
        for call in experiment.feed.calls(batches, first_step=0):
            state, metrics = experiment.train_steps(state, metrics, *call)
        jax.block_until_ready((state, metrics))

    return take_steps


def digits_jax_evaluation(config: ConfigDict, arrays: Arrays) -> Pass:
    """The metrics over all test images."""
    experiment = digits_jax_experiment(config, arrays)
    evaluate, state = experiment.after_each_epoch["test"], experiment.initial_state
    return lambda: jax.block_until_ready(evaluate(state))


def tutorial_max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), strides=(2, 2))


class TutorialCNN(nn.Module):
    """A config's VGG as Flax tutorials write it: `nn.Conv` on `lax.conv_general_dilated`, and `nn.max_pool`."""

    model_config: Any
    conv: Callable[..., jax.Array] = lax.conv_general_dilated
    max_pool: Callable[[jax.Array], jax.Array] = tutorial_max_pool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        fields = self.model_config
        norm = partial(
            nn.BatchNorm, use_running_average=not train, momentum=fields.bn_momentum, epsilon=fields.bn_epsilon
        )

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


def tutorial_flax_training(config: ConfigDict, arrays: Arrays, *, in_scan: bool = False, **layers: Any) -> Pass:
    """The same network in a Python loop over jitted steps, each fed from NumPy.

    Args:
      in_scan: all steps in one `lax.scan` instead, over images that are on the device.
      layers: other fields of the `TutorialCNN`.
    """
    model = TutorialCNN(config.model, **layers)
    mean, std = float(arrays.train_images.mean()), float(arrays.train_images.std())
    variables = model.init(jax.random.key(0), jnp.zeros((1, *arrays.train_images.shape[1:])), train=False)
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optax.sgd(config.learning_rates[0]))
    batch_stats = variables.get("batch_stats", {})
    order = np.random.default_rng(0).permutation(len(arrays.train_labels))
    batches = order[: len(order) // config.batch_size * config.batch_size].reshape(-1, config.batch_size)

    def train_step(state: TrainState, batch_stats: Any, images: jax.Array, labels: jax.Array) -> tuple[TrainState, Any]:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            logits, updates = state.apply_fn(
                {"params": params, "batch_stats": batch_stats},
                normalize(images, mean, std),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(jax.random.key(1), state.step)},
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, updates.get("batch_stats", {})

        gradients, batch_stats = jax.grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients), batch_stats

    jitted_step = jax.jit(train_step)

    @jax.jit
    def scan_steps(state: TrainState, batch_stats: Any, images: jax.Array, labels: jax.Array) -> tuple[TrainState, Any]:
        def body(carry: tuple[TrainState, Any], rows: jax.Array) -> tuple[tuple[TrainState, Any], None]:
            return train_step(*carry, images[rows], labels[rows]), None

        return lax.scan(body, (state, batch_stats), jnp.asarray(batches))[0]

    images, labels = jnp.asarray(arrays.train_images), jnp.asarray(arrays.train_labels)

    def take_steps() -> None:
        nonlocal state, batch_stats
        if in_scan:
            state, batch_stats = scan_steps(state, batch_stats, images, labels)
        else:
            for rows in batches:
                batch = arrays.train_images[rows], arrays.train_labels[rows]
                state, batch_stats = jitted_step(state, batch_stats, *batch)
        jax.block_until_ready(state.params)

    return take_steps


def remedies(config: ConfigDict, arrays: Arrays) -> dict[str, Pass]:
    """What lies between tutorial Flax and this project, one change at a time, each on top of those before it."""
    pool: dict[str, Any] = {"max_pool": max_pool_2x2}
    rows, winograd = ({**pool, "conv": conv.implementation(name)} for name in ("matmul", "winograd"))
    training = partial(tutorial_flax_training, config, arrays)
    return {
        "tutorial Flax": training(),
        "tutorial Flax in lax.scan": training(in_scan=True),
        "1. max-pool as a maximum of slices": training(**pool),
        "2. convolutions as matrix products": training(**rows),
        "3. Winograd's transforms": training(**winograd),
        "4. steps in one compiled call": training(**winograd, in_scan=True),
    }


def torch_training(config: ConfigDict, arrays: Arrays, *, channels_last: bool, compiled: bool) -> Pass:
    """The same steps as a PyTorch user writes them; it does not augment."""
    import torch
    from torch import nn as tnn

    model, images, labels, normalized = torch_parts(config, arrays.train_images, arrays.train_labels, channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rates[0])
    forward = _compiled(model) if compiled else model
    order = torch.randperm(len(labels))

    def take_steps() -> None:
        for rows in order.split(config.batch_size):
            optimizer.zero_grad()
            tnn.functional.cross_entropy(forward(normalized(images[rows])), labels[rows]).backward()
            optimizer.step()

    return take_steps


def torch_evaluation(config: ConfigDict, arrays: Arrays, *, channels_last: bool, compiled: bool) -> Pass:
    """Loss and accuracy over all test images."""
    import torch
    from torch import nn as tnn

    model, images, labels, normalized = torch_parts(config, arrays.test_images, arrays.test_labels, channels_last)
    model.eval()
    forward = _compiled(model) if compiled else model
    order = torch.arange(len(labels))

    def evaluate() -> None:
        loss, correct = 0.0, 0
        with torch.inference_mode():
            for rows in order.split(config.eval_batch_size):
                logits = forward(normalized(images[rows]))
                loss += tnn.functional.cross_entropy(logits, labels[rows], reduction="sum").item()
                correct += int((logits.argmax(1) == labels[rows]).sum())

    return evaluate


def _compiled(model: Any) -> Any:
    import torch

    torch._dynamo.reset()  # after eight programs in a process it would give up, and run the ninth uncompiled
    return torch.compile(model)


def torch_parts(config: ConfigDict, images: np.ndarray, labels: np.ndarray, channels_last: bool) -> Any:
    """The model, images `[N, C, H, W]` and labels as tensors, and the function that normalises a batch of images."""
    import torch

    torch.set_num_threads(num_cores())
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    mean, std = float(images.mean()), float(images.std())

    def normalized(batch: Any) -> Any:
        return ((batch.float() - mean) / std).to(memory_format=memory_format)

    model = _torch_model(config.model, images.shape[1]).to(memory_format=memory_format)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return model, planes, torch.from_numpy(labels).long(), normalized


def _torch_model(model_config: ConfigDict, size: int) -> Any:
    from torch import nn as tnn

    if model_config.name == "linear":
        return tnn.Sequential(tnn.Flatten(), tnn.Linear(size * size, 10))
    norm = model_config.batch_norm

    def activation(norm_layer: type[tnn.Module], width: int) -> list[tnn.Module]:
        layer = [norm_layer(width, eps=model_config.bn_epsilon, momentum=1 - model_config.bn_momentum)]
        return [*(layer if norm == "before" else []), tnn.ReLU(), *(layer if norm == "after" else [])]

    layers: list[tnn.Module] = []
    channels = 1
    for widths, rate in zip(model_config.widths, model_config.block_dropout, strict=True):
        for width in widths:
            layers += [tnn.Conv2d(channels, width, 3), *activation(tnn.BatchNorm2d, width)]
            channels, size = width, size - 2
        layers += [tnn.MaxPool2d(2), tnn.Dropout(rate)]
        size //= 2
    hidden = model_config.hidden_width
    layers += [tnn.Flatten(), tnn.Linear(channels * size * size, hidden), *activation(tnn.BatchNorm1d, hidden)]
    layers += [tnn.Dropout(model_config.hidden_dropout), tnn.Linear(hidden, 10)]
    # A dropout of rate 0 still draws its mask in PyTorch.
    return tnn.Sequential(*(layer for layer in layers if not (isinstance(layer, tnn.Dropout) and layer.p == 0)))

"""A batch shared by devices is the batch of one: the same images, gradients and statistics."""

import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from ml_collections import ConfigDict

from digits_jax import data, models, train_step
from digits_jax.augment import create_augment
from digits_jax.config import get_config
from digits_jax.data import Examples
from digits_jax.evaluate import make_eval_steps
from digits_jax.losses import create_loss
from digits_jax.metrics import Metrics
from digits_jax.parallel import create_mesh, describe_uneven_batch, put, shard_batch
from digits_jax.train_step import Recipe, TrainState

pytestmark = pytest.mark.devices

TX = optax.chain(optax.trace(decay=0.0), optax.scale(-0.01))  # SGD that keeps its latest gradients in its state


def create(config: ConfigDict) -> tuple[Recipe, TrainState]:
    config.model.update(mean=33.0, std=78.0)
    model = models.create_model(config.model, num_classes=10)
    recipe = Recipe(model, TX, create_augment(config.augment, 10), create_loss(config.loss), microbatch_size=64)
    return recipe, train_step.create_train_state(recipe, jnp.uint32(0), image_shape=(28, 28, 1))


def real_examples(small_config: ConfigDict, count: int) -> Examples:
    small_config.dataset.train_examples = count
    arrays = data.load_configured(small_config.dataset).arrays
    return Examples(jnp.asarray(arrays.train_images), jnp.asarray(arrays.train_labels))


def random_examples(count: int) -> Examples:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), np.uint8)
    return Examples(jnp.asarray(images), jnp.arange(count) % 10)


class Steps(NamedTuple):
    gradients: np.ndarray  # of the first step, all of them, one after another
    batch_stats: Any  # after the first step
    metrics: Metrics  # of the first step
    losses: list[float]  # of all steps
    program: str  # as compiled


def take_steps(config: ConfigDict, mesh: Mesh, examples: Examples, *, count: int = 1) -> Steps:
    """An epoch of `count` steps."""
    recipe, state = create(config)
    steps = train_step.make_train_steps(recipe, mesh=mesh, kernels=config.execution.kernels)
    batches = jax.random.permutation(jax.random.key(1), len(examples.labels)).reshape(count, -1)
    state, zero, examples, batches = put((state, Metrics.zero(), examples, batches), mesh)
    program = steps.lower(state, zero, examples, batches, 0, 1).compile()
    states, metrics = [], []
    for step in range(count):
        state, its_metrics = program(state, zero, examples, batches, step, step + 1)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(its_metrics))
    gradients, _ = ravel_pytree(states[0].opt_state[0].trace)
    losses = [float(its.loss_sum) for its in metrics]
    return Steps(gradients, states[0].batch_stats, metrics[0], losses, program.as_text())


def assert_close(ours: Steps, theirs: Steps, *, atol: float = 1e-5) -> None:
    """Gradients relative to the largest of them, statistics and loss each to itself."""
    np.testing.assert_allclose(ours.gradients, theirs.gradients, rtol=0, atol=atol * np.abs(theirs.gradients).max())
    for a, b in zip(jax.tree.leaves(ours.batch_stats), jax.tree.leaves(theirs.batch_stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert ours.losses[0] == pytest.approx(theirs.losses[0], rel=1e-5)


# Sums of a batch's statistics, and products of another shape, differ in their last bit. A max-pool whose two largest
# values are as near as that to each other then sends its gradient elsewhere: among the millions of values of a batch a
# few do.
@pytest.mark.parametrize(
    ("conv", "batch_norm", "count", "atol", "losses_rtol"),
    [
        ("lax", "none", 1, 1e-5, 1e-5),
        ("winograd", "none", 20, 1e-5, 1e-4),
        ("lax", "after", 1, 1e-3, 1e-5),
        ("winograd", "after", 1, 1e-3, 1e-5),
    ],
)
def test_devices_share_a_step_of_the_whole_network(
    small_config: ConfigDict, conv: str, batch_norm: str, count: int, atol: float, losses_rtol: float
) -> None:
    config = get_config()
    config.model.batch_norm, config.execution.kernels = batch_norm, conv
    examples = real_examples(small_config, count * 64)
    alone = take_steps(config, create_mesh(num_devices=1), examples, count=count)
    for num_devices in (2, 4, 8):
        steps = take_steps(config, create_mesh(num_devices=num_devices), examples, count=count)
        # Nothing but sums travels: of gradients, metrics and the batch's statistics.
        assert set(re.findall(r" ((?:all|collective|reduce|ragged)-[\w-]+)\(", steps.program)) == {"all-reduce"}
        assert_close(steps, alone, atol=atol)
        assert steps.losses == pytest.approx(alone.losses, rel=losses_rtol)


@pytest.mark.parametrize(("batch_norm", "atol"), [("none", 1e-5), ("before", 1e-4)])
def test_a_batch_that_does_not_divide_is_replicated(vgg_config: ConfigDict, batch_norm: str, atol: float) -> None:
    vgg_config.model.update(batch_norm=batch_norm, hidden_dropout=0.5)
    vgg_config.augment.shear = 0.3
    alone = take_steps(vgg_config, create_mesh(num_devices=1), random_examples(37))
    for count in (2, 8):
        steps = take_steps(vgg_config, create_mesh(num_devices=count), random_examples(37))
        assert int(steps.metrics.count) == 37
        assert not re.search(r" (all-[\w-]+|collective-[\w-]+|reduce-scatter|ragged-[\w-]+)\(", steps.program)
        assert int(steps.metrics.correct) == int(alone.metrics.correct)
        assert_close(steps, alone, atol=atol)


def test_batches_are_sharded_where_they_divide() -> None:
    mesh = create_mesh(num_devices=8)
    batch = {"images": jnp.zeros((16, 2)), "labels": jnp.zeros(16)}
    sharded = jax.jit(partial(shard_batch, mesh=mesh))(batch)
    assert {leaf.sharding.shard_shape(leaf.shape)[0] for leaf in jax.tree.leaves(sharded)} == {2}
    replicated = jax.jit(partial(shard_batch, mesh=mesh))(jnp.zeros((12, 2)))
    assert replicated.sharding.is_fully_replicated
    assert len(replicated.sharding.device_set) == 8


def test_a_batch_size_that_does_not_divide_is_reported() -> None:
    mesh = create_mesh(num_devices=8)
    assert describe_uneven_batch(64, mesh) is None
    assert describe_uneven_batch(37, mesh) == (
        "config.batch_size is 37, which 8 devices cannot share evenly, so that each computes every batch: "
        "32 or 40 would be shared"
    )
    assert str(describe_uneven_batch(5, mesh)).endswith(": 8 would be shared")


@pytest.mark.parametrize("batch_size", [64, 100, 37])
def test_devices_evaluate_each_image_once(vgg_config: ConfigDict, batch_size: int) -> None:
    recipe, state = create(vgg_config)
    examples = random_examples(1_000)
    vgg_config.augment.shear = 0.3
    found = []
    for count in (1, 8):
        mesh = create_mesh(num_devices=count)
        evaluate = make_eval_steps(
            recipe.model, batch_size=batch_size, augment=create_augment(vgg_config.augment, 10), mesh=mesh
        )
        found.append(evaluate(put(state, mesh), put(examples, mesh)))
    (metrics, wrong), (alone, alone_wrong) = found
    assert int(metrics.count) == 1_000
    np.testing.assert_array_equal(wrong, alone_wrong)
    assert float(metrics.loss_sum) == pytest.approx(float(alone.loss_sum), rel=1e-5)


@pytest.mark.parametrize(
    ("replicas", "shape"), [(1, (1, 8)), (2, (2, 4)), (3, (3, 2)), (5, (5, 1)), (8, (8, 1)), (16, (8, 1))]
)
def test_replicas_come_before_the_batch(replicas: int, shape: tuple[int, int]) -> None:
    assert create_mesh(replicas).devices.shape == shape

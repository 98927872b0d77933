"""A batch shared by devices is the batch of one: the same images, gradients and statistics."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs import default
from digits_jax import models, train_step
from digits_jax.augment import create_augment
from digits_jax.mesh import create_mesh, put
from digits_jax.metrics import Metrics
from digits_jax.train_step import Examples, TrainState

pytestmark = pytest.mark.devices

TX = optax.sgd(1.0)  # a step is the gradient


def create(config: ConfigDict) -> tuple[Any, TrainState]:
    config.model.update(mean=33.0, std=78.0)
    model = models.create_model(config.model, num_classes=10)
    return model, train_step.create_train_state(model, TX, jnp.uint32(0), image_shape=(28, 28, 1))


def random_examples(count: int) -> Examples:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), np.uint8)
    return Examples(jnp.asarray(images), jnp.arange(count) % 10)


def take_step(config: ConfigDict, mesh: Mesh, batch_size: int) -> tuple[TrainState, Metrics, str]:
    """The state and metrics after one step on that many devices, and the compiled program."""
    model, state = create(config)
    steps = train_step.make_train_steps(
        model=model, tx=TX, augment=create_augment(config.augment), microbatch_size=64, mesh=mesh
    )
    batches = jax.random.permutation(jax.random.key(1), batch_size)[None]
    arguments = put((state, Metrics.zero(), random_examples(batch_size), batches), mesh)
    program = steps.lower(*arguments, 0, 1).compile()
    return *program(*arguments, 0, 1), program.as_text()


def assert_close(ours: TrainState, theirs: TrainState) -> None:
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for a, b in zip(jax.tree.leaves(ours.batch_stats), jax.tree.leaves(theirs.batch_stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_norm", ["none", "after"])
@pytest.mark.parametrize("conv", ["winograd", "lax"])
def test_devices_share_a_step_of_the_whole_network(batch_norm: str, conv: str) -> None:
    config = default.get_config()
    config.model.update(batch_norm=batch_norm, conv=conv, hidden_dropout=0.5)
    config.augment.shear = 0.3
    alone, alone_metrics, _ = take_step(config, create_mesh(num_devices=1), 64)
    for count in (2, 4, 8):
        state, metrics, program = take_step(config, create_mesh(num_devices=count), 64)
        # Nothing but sums travels: of gradients, metrics and the batch's statistics.
        assert set(re.findall(r" ((?:all|collective|reduce|ragged)-[\w-]+)\(", program)) == {"all-reduce"}
        assert float(metrics.loss_sum) == pytest.approx(float(alone_metrics.loss_sum), rel=1e-5)
        assert_close(state, alone)


@pytest.mark.parametrize("batch_norm", ["none", "before"])
def test_a_batch_that_does_not_divide_is_filled_up_and_masked(vgg_config: ConfigDict, batch_norm: str) -> None:
    vgg_config.model.update(batch_norm=batch_norm, hidden_dropout=0.5)
    vgg_config.augment.shear = 0.3
    alone, alone_metrics, _ = take_step(vgg_config, create_mesh(num_devices=1), 37)
    for count in (2, 8):
        state, metrics, _ = take_step(vgg_config, create_mesh(num_devices=count), 37)
        assert int(metrics.count) == 37
        assert int(metrics.correct) == int(alone_metrics.correct)
        assert float(metrics.loss_sum) == pytest.approx(float(alone_metrics.loss_sum), rel=1e-5)
        assert_close(state, alone)


def test_devices_with_their_own_statistics_only_add_up_gradients(vgg_config: ConfigDict) -> None:
    vgg_config.model.update(batch_norm="after", bn_groups=8)
    alone, _, _ = take_step(vgg_config, create_mesh(num_devices=1), 64)
    state, _, program = take_step(vgg_config, create_mesh(num_devices=8), 64)
    assert_close(state, alone)
    vgg_config.model.bn_groups = 1
    *_, program_of_all = take_step(vgg_config, create_mesh(num_devices=8), 64)
    assert program.count(" all-reduce(") < program_of_all.count(" all-reduce(")


@pytest.mark.parametrize("batch_size", [64, 100, 37])
def test_devices_evaluate_each_image_once(vgg_config: ConfigDict, batch_size: int) -> None:
    model, state = create(vgg_config)
    examples = random_examples(1_000)
    vgg_config.augment.shear = 0.3
    found = []
    for count in (1, 8):
        mesh = create_mesh(num_devices=count)
        evaluate = train_step.make_eval_steps(
            model=model, batch_size=batch_size, augment=create_augment(vgg_config.augment), mesh=mesh
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

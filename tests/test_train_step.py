"""The pure core: what a step changes, what evaluation counts, which random numbers are drawn."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from digits_jax import models, ops, train_step
from digits_jax.augment import identity
from digits_jax.config import get_config
from digits_jax.data import DATASETS, Dataset, Examples
from digits_jax.evaluate import make_eval_steps
from digits_jax.losses import cross_entropy
from digits_jax.metrics import Metrics
from digits_jax.parallel.mesh import create_mesh
from digits_jax.train_step import Recipe, TrainState

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (12, 28, 28, 1), np.uint8))
BATCH = Examples(IMAGES, jnp.arange(12) % 10)
TX = optax.sgd(0.1)
LOSS = cross_entropy()


def create(config: ConfigDict, **changes: Any) -> tuple[nn.Module, TrainState]:
    config.model.update(mean=33.0, std=78.0, **changes)
    model = models.create_model(config.model, num_classes=10)
    create_state = partial(train_step.create_train_state, recipe(model), image_shape=(28, 28, 1))
    return model, jax.jit(create_state)(jnp.uint32(0))


def recipe(model: nn.Module, **changes: Any) -> Recipe:
    return Recipe(model, TX, identity, LOSS, microbatch_size=len(IMAGES))._replace(**changes)


def step(model: nn.Module, state: TrainState, **changes: Any) -> tuple[TrainState, Metrics]:
    return jax.jit(partial(train_step.train_step, recipe=recipe(model, **changes)))(state, BATCH)


def trees_equal(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_a_step_goes_down_the_gradient(vgg_config: ConfigDict) -> None:
    model, state = create(vgg_config)
    after, metrics = step(model, state)
    assert int(after.step) == 1

    def loss(params: Any) -> jax.Array:
        logits = model.apply({"params": params}, BATCH.images, train=True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), BATCH.labels[:, None], 1).mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradients)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), after.params, expected)
    assert metrics.compute("train")["train/loss"] == pytest.approx(float(value), rel=1e-5)


def test_a_step_minimises_the_loss_and_reports_the_cross_entropy(vgg_config: ConfigDict) -> None:
    model, state = create(vgg_config)
    plain, tenfold = (step(model, state, loss=lambda *args, factor=f: factor * LOSS(*args)) for f in (1, 10))
    for ours, theirs in zip(changes(state, tenfold[0]), changes(state, plain[0]), strict=True):
        np.testing.assert_allclose(ours, 10 * theirs, rtol=1e-3, atol=1e-5)
    assert float(tenfold[1].loss_sum) == pytest.approx(float(plain[1].loss_sum))


def changes(before: TrainState, after: TrainState) -> list[jax.Array]:
    return jax.tree.leaves(jax.tree.map(jnp.subtract, after.params, before.params))


@pytest.mark.parametrize("microbatch_size", [1, 4, 5, 12, 64])
def test_microbatches_add_up_to_the_batch(vgg_config: ConfigDict, microbatch_size: int) -> None:
    model, state = create(vgg_config)
    whole, expected = step(model, state)
    parts, metrics = step(model, state, microbatch_size=microbatch_size)
    for ours, theirs in zip(changes(state, parts), changes(state, whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert int(metrics.count) == 12
    assert metrics.compute("train") == pytest.approx(expected.compute("train"), rel=1e-5)


def test_each_microbatch_draws_its_own_dropout(vgg_config: ConfigDict) -> None:
    model, state = create(vgg_config, hidden_dropout=0.5)
    same = BATCH._replace(images=jnp.repeat(IMAGES[:1], 12, 0), labels=jnp.zeros(12, jnp.int32))

    def loss_sum(batch: Examples, microbatch_size: int) -> float:
        take = partial(train_step.train_step, recipe=recipe(model, microbatch_size=microbatch_size))
        return float(jax.jit(take)(state, batch)[1].loss_sum)

    of_one, whole, alone = loss_sum(same, 1), loss_sum(same, 12), loss_sum(jax.tree.map(lambda x: x[:1], same), 1)
    # Twelve copies of one image: one mask for all of them would make twelve times the loss of one.
    assert abs(of_one - 12 * alone) > 1e-3
    assert of_one != whole


def test_batch_statistics_are_those_of_the_whole_batch(vgg_config: ConfigDict) -> None:
    model, state = create(vgg_config, batch_norm="after")
    whole, parts = (step(model, state, microbatch_size=size)[0] for size in (12, 4))
    assert trees_equal(whole, parts)


def test_a_step_updates_the_running_statistics(vgg_config: ConfigDict) -> None:
    model, state = create(vgg_config, batch_norm="before", bn_momentum=0.9)
    after, _ = step(model, state)
    # The first layer sees (convolution of the normalised images): its mean moves by a tenth of the way.
    _, captured = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        BATCH.images, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True,
    )  # fmt: skip
    mean = captured["intermediates"]["Conv_0"]["__call__"][0].mean((0, 1, 2))
    np.testing.assert_allclose(after.batch_stats["BatchNorm_0"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_without_batch_norm_there_are_no_statistics(vgg_config: ConfigDict) -> None:
    model, state = create(vgg_config)
    assert state.batch_stats == {}
    assert step(model, state)[0].batch_stats == {}


@pytest.mark.parametrize("what", ["dropout", "augmentation"])
def test_draws_are_a_function_of_seed_and_step(vgg_config: ConfigDict, what: str) -> None:
    def brighter(key: jax.Array, batch: Examples) -> Examples:
        return batch._replace(images=batch.images + 100 * jax.random.uniform(key))

    model, state = create(vgg_config, hidden_dropout=0.5 if what == "dropout" else 0.0)
    augment = brighter if what == "augmentation" else identity
    later = state.replace(step=state.step + 1)
    states = (state, state, later, state.replace(seed=state.seed + 1))
    draws = [step(model, s, augment=augment)[0].params for s in states]
    assert trees_equal(draws[0], draws[1])
    assert not trees_equal(draws[0], draws[2])
    assert not trees_equal(draws[0], draws[3])


def test_streams_are_independent() -> None:
    keys = [jax.random.key_data(key).tolist() for seed in (0, 1) for key in train_step.create_keys(seed)]
    assert len({tuple(key) for key in keys}) == len(keys)


def test_chunks_do_not_change_the_result(vgg_config: ConfigDict) -> None:
    model, start = create(vgg_config, batch_norm="after", hidden_dropout=0.5)
    batches = jax.random.randint(jax.random.key(0), (7, 4), 0, 12)
    train_steps = train_step.make_train_steps(recipe(model, microbatch_size=4), mesh=create_mesh())
    results = []
    for bounds in ((0, 7), (0, 3, 4, 7), (0, 0, 1, 7)):
        state, metrics = jax.tree.map(jnp.copy, start), Metrics.zero()
        for first, last in itertools.pairwise(bounds):
            state, metrics = train_steps(state, metrics, BATCH, batches, first, last)
        assert int(state.step) == 7
        assert int(metrics.count) == 28
        results.append((state, metrics))
    assert trees_equal(results[0], results[1])
    assert trees_equal(results[0], results[2])


class Constant(nn.Module):
    """Predicts the class that the first pixel says, with a known loss: an exact expected accuracy."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        return 5.0 * jax.nn.one_hot(images[:, 0, 0, 0], 10)


@pytest.mark.parametrize("batch_size", [1, 64, 1_000, 4_096, 20_000])
def test_evaluation_counts_each_of_10_000_once(batch_size: int) -> None:
    labels = np.arange(10_000) % 10
    predicted = np.where(np.arange(10_000) < 9_937, labels, (labels + 1) % 10)  # the last 63 are wrong
    images = np.zeros((10_000, 1, 1, 1), np.uint8)
    images[:, 0, 0, 0] = predicted
    evaluate = make_eval_steps(Constant(), batch_size=batch_size, mesh=create_mesh())
    state = TrainState(seed=jnp.uint32(0), step=jnp.int32(0), params={}, batch_stats={}, opt_state=())
    metrics, wrong = evaluate(state, Examples(jnp.asarray(images), jnp.asarray(labels)))
    assert int(metrics.count) == 10_000
    assert np.flatnonzero(wrong).tolist() == list(range(9_937, 10_000))
    values = metrics.compute("test")
    assert values["test/accuracy"] == 0.9937
    normaliser = np.log(np.exp(5.0) + 9)
    assert values["test/loss"] == pytest.approx(normaliser - 5.0 * 0.9937, rel=1e-4)


def test_evaluation_uses_the_running_statistics_and_leaves_them(vgg_config: ConfigDict) -> None:
    model, state = create(vgg_config, batch_norm="after", hidden_dropout=0.5)
    evaluate = make_eval_steps(model, batch_size=5, mesh=create_mesh())
    before = jax.device_get(state.batch_stats)
    metrics, _ = evaluate(state, BATCH)
    assert trees_equal(before, state.batch_stats)
    moved = state.replace(batch_stats=jax.tree.map(lambda x: x + 0.5, state.batch_stats))
    assert float(evaluate(moved, BATCH)[0].loss_sum) != float(metrics.loss_sum)


def test_metrics_add_up_over_batches() -> None:
    logits = jax.random.normal(jax.random.key(0), (10, 10))
    labels = jnp.arange(10)
    whole = Metrics.of_batch(logits, labels)
    parts = Metrics.of_batch(logits[:7], labels[:7]) + Metrics.of_batch(logits[7:], labels[7:])
    assert parts.compute("x") == pytest.approx(whole.compute("x"), rel=1e-6)


def test_evaluation_on_augmented_images_draws_by_seed_and_step(vgg_config: ConfigDict) -> None:
    def darker(key: jax.Array, batch: Examples) -> Examples:
        return batch._replace(images=batch.images * jax.random.uniform(key))

    model, state = create(vgg_config)
    evaluate = make_eval_steps(model, batch_size=5, augment=darker, mesh=create_mesh())
    states = (state, state, state.replace(seed=state.seed + 1), state.replace(step=state.step + 1))
    losses = [float(evaluate(s, BATCH)[0].loss_sum) for s in states]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["winograd", "matmul"])
@pytest.mark.parametrize("batch_norm", ["none", "after"])
def test_a_step_of_the_whole_network_agrees_with_xlas_convolution(name: str, batch_norm: str) -> None:
    changes = {}
    for conv in (name, "lax"):
        model, before = create(get_config(), batch_norm=batch_norm, hidden_dropout=0.5)
        with ops.using(conv):
            after, _ = step(model, before)
        changes[conv] = jax.tree.map(jnp.subtract, after.params, before.params)  # -0.1 x the gradients
    for ours, theirs in zip(*(jax.tree.leaves(change) for change in changes.values()), strict=True):
        assert jnp.abs(ours - theirs).max() <= 1e-4 * jnp.abs(theirs).max()


@pytest.mark.slow
def test_twenty_losses_agree_with_xlas_convolution(small_dataset: Dataset) -> None:
    # Real digits: random ones are learnt by heart, in leaps that amplify rounding.
    images, labels = small_dataset.arrays.train_images, small_dataset.arrays.train_labels
    losses = {}
    for conv in ("winograd", "lax"):
        model, state = create(get_config())
        slow = recipe(model, tx=optax.sgd(0.01), microbatch_size=20)
        take = jax.jit(ops.using(conv)(partial(train_step.train_step, recipe=slow)))
        losses[conv] = []
        for start in range(0, 80, 4):
            batch = Examples(images[start : start + 20], labels[start : start + 20].astype(np.int32))
            state, metrics = take(state, batch)
            losses[conv].append(float(metrics.loss_sum))
    np.testing.assert_allclose(losses["winograd"], losses["lax"], rtol=1e-4)


@pytest.mark.slow
def test_an_epoch_reaches_what_xlas_convolution_reaches(mnist_source: Path) -> None:
    arrays = DATASETS["mnist"].read(mnist_source)
    test = Examples(jnp.asarray(arrays.test_images), jnp.asarray(arrays.test_labels, jnp.int32))
    batches = np.random.default_rng(0).permutation(60_000)[: 937 * 64].reshape(937, 64)
    accuracies = {}
    for conv in ("winograd", "lax"):
        model, state = create(get_config())
        slow = recipe(model, tx=optax.sgd(0.01), microbatch_size=64)
        # One step a call: inside a loop XLA's own convolution would take a quarter of an hour.
        take = jax.jit(ops.using(conv)(partial(train_step.train_step, recipe=slow)))
        for rows in batches:
            state, _ = take(state, Examples(arrays.train_images[rows], arrays.train_labels[rows].astype(np.int32)))
        evaluate = make_eval_steps(model, batch_size=64, mesh=create_mesh(), kernels=conv)
        accuracies[conv] = evaluate(state, test)[0].compute("test")["test/accuracy"]
    assert accuracies["winograd"] > 0.95
    assert abs(accuracies["winograd"] - accuracies["lax"]) <= 0.002, accuracies
    print(accuracies)


def test_states_have_the_same_types_in_64_bits(vgg_config: ConfigDict) -> None:
    def types() -> Any:
        _, state = create(vgg_config, batch_norm="after")
        return jax.tree.map(lambda leaf: leaf.dtype, (state, Metrics.zero(("gradient_norm",))))

    usual = types()
    with jax.enable_x64(True):
        assert types() == usual

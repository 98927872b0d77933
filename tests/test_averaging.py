"""Averaged weights, and the batch statistics that fit them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax import load_model
from digits_jax.averaging import average_weights, estimate_batch_stats
from digits_jax.config import resolve
from digits_jax.data import Dataset
from digits_jax.experiment import build
from digits_jax.train_loop import train_and_evaluate


@pytest.fixture
def averaged(vgg_config: ConfigDict) -> ConfigDict:
    vgg_config.model.update(batch_norm="after", hidden_dropout=0.5, block_dropout=(0.25, 0.25))
    vgg_config.average_decay = 0.9
    return vgg_config


def test_the_average_forgets_the_initial_weights_first_and_then_at_its_rate() -> None:
    tx = average_weights(0.9)
    params = expected = 1000.0
    state = tx.init(jnp.float32(params))
    for step, value in enumerate(np.random.default_rng(0).normal(size=200)):
        _, state = tx.update(jnp.float32(value - params), state, jnp.float32(params))
        params = value
        stay = min(0.9, (1 + step) / (10 + step))
        expected = stay * expected + (1 - stay) * params
    np.testing.assert_allclose(state.average, expected, rtol=1e-4)
    assert abs(state.average) < 3  # 1000 is gone


def test_statistics_of_one_batch_score_it_as_training_does(averaged: ConfigDict, small_dataset: Dataset) -> None:
    config = resolve(averaged, small_dataset)
    experiment = build(config, small_dataset)
    params = experiment.create_state(np.uint32(0)).params
    images = jnp.asarray(small_dataset.arrays.train_images[:16])
    batch_stats = estimate_batch_stats(experiment.model, params, images[None])
    variables = {"params": params, "batch_stats": batch_stats}
    without_dropout = experiment.model.clone(block_dropout=(0.0, 0.0), hidden_dropout=0.0)
    as_trained, _ = without_dropout.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(experiment.model.apply(variables, images, train=False), as_trained, atol=1e-4)


def test_statistics_are_means_over_batches(averaged: ConfigDict, small_dataset: Dataset) -> None:
    config = resolve(averaged, small_dataset)
    experiment = build(config, small_dataset)
    params, model = experiment.create_state(np.uint32(0)).params, experiment.model
    batches = jnp.asarray(small_dataset.arrays.train_images[:48]).reshape(3, 16, *small_dataset.image_shape)
    of_all = estimate_batch_stats(model, params, batches)
    of_each = [estimate_batch_stats(model, params, batch[None]) for batch in batches]
    jax.tree.map(lambda x, *each: np.testing.assert_allclose(x, sum(each) / 3, rtol=1e-5), of_all, *of_each)


@pytest.mark.slow
def test_a_run_scores_and_keeps_its_average(averaged: ConfigDict, small_dataset: Dataset, tmp_path: Path) -> None:
    averaged.model.block_dropout = (0.0, 0.0)
    rows = train_and_evaluate(averaged, tmp_path)
    model = load_model(tmp_path, checkpoint="latest")
    right = model.predict(small_dataset.arrays.test_images).argmax(1) == small_dataset.arrays.test_labels
    assert right.mean() == pytest.approx(rows[-1]["test/accuracy"])


def test_training_does_not_see_the_average(small_config: ConfigDict, tmp_path: Path) -> None:
    plain = train_and_evaluate(small_config, tmp_path / "plain")
    small_config.average_decay = 0.9
    averaged = train_and_evaluate(small_config, tmp_path / "averaged")
    assert [row["train/loss"] for row in plain] == [row["train/loss"] for row in averaged]
    assert plain[-1]["test/loss"] != averaged[-1]["test/loss"]

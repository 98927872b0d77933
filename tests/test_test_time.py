"""Test-time augmentation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from digits_jax import load_model
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError
from digits_jax.test_time import average_over_versions, shifts
from digits_jax.train_loop import train_and_evaluate


def test_shifts_move_a_pixel_each_way_and_lose_what_leaves() -> None:
    image = np.zeros((1, 3, 3, 1), np.uint8)
    image[0, 0, 1, 0] = 7
    found = [tuple(map(tuple, np.argwhere(view[0, ..., 0] == 7))) for view in np.asarray(shifts(jnp.asarray(image)))]
    assert found == [((0, 1),), (), ((1, 1),), ((0, 0),), ((0, 2),)]


def test_probabilities_are_the_mean_over_the_versions() -> None:
    images = jax.random.randint(jax.random.key(0), (4, 5, 5, 1), 0, 256).astype(jnp.uint8)
    kernel = jax.random.normal(jax.random.key(1), (25, 3)) / 100

    def logits_of(images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1) @ kernel

    expected = np.mean([nn.softmax(logits_of(view)) for view in shifts(images)], axis=0)
    np.testing.assert_allclose(nn.softmax(average_over_versions(logits_of, "shifts")(images)), expected, rtol=1e-5)
    assert average_over_versions(logits_of, "none") is logits_of


def test_a_run_and_its_model_answer_alike(small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path) -> None:
    small_config.test_time_augmentation = "shifts"
    rows = train_and_evaluate(small_config, tmp_path / "run")
    model = load_model(tmp_path / "run", checkpoint="latest")
    images, labels = small_dataset.arrays.test_images, small_dataset.arrays.test_labels
    loss = -np.log(model.predict(images)[np.arange(len(labels)), labels]).mean()
    assert loss == pytest.approx(rows[-1]["test/loss"], rel=1e-4)
    small_config.test_time_augmentation = "none"
    assert train_and_evaluate(small_config, tmp_path / "one")[-1]["test/loss"] != pytest.approx(loss)
    of_several = load_model(tmp_path / "one", checkpoint="latest", test_time_augmentation="shifts")
    np.testing.assert_array_equal(of_several.predict(images), model.predict(images))
    with pytest.raises(ConfigError, match=r"test_time_augmentation is 'two': expected one of none, shifts"):
        load_model(tmp_path / "one", test_time_augmentation="two")

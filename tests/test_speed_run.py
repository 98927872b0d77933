"""Two sides trained in turn."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from digits_jax.config import resolve
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError
from digits_jax.studies.benchmark import torch_recipe
from digits_jax.studies.benchmark.__main__ import Case
from digits_jax.studies.benchmark.speed_run import race, time_cases, train
from digits_jax.train import train_and_evaluate


def test_it_trains_as_a_run_does(small_config: ConfigDict, small_dataset: Dataset, tmp_path: Path) -> None:
    small_config.seed = 3
    rows = train_and_evaluate(small_config, tmp_path)
    small_config.seed = 0
    seconds, accuracy = train(resolve(small_config, small_dataset), small_dataset, 3)
    assert accuracy == rows[-1]["test/accuracy"]
    assert seconds > 0


def test_contestants_take_turns() -> None:
    calls = []

    def contestant(name: str, factor: int) -> object:
        return lambda seed: (calls.append((name, seed)), (factor * (seed + 1), 0.9))[1]

    found = race({"a": contestant("a", 1), "b": contestant("b", 10)}, seeds=2)  # type: ignore[dict-item]
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert found["b"] == {"seconds": [10, 20], "accuracy": [0.9, 0.9]}


def test_costs(small_config: ConfigDict) -> None:
    small_config.model.mean, small_config.model.std = 33.0, 78.0
    found = time_cases([Case("linear", small_config, "training")], rounds=2, seconds=0.01)["linear"]
    assert len(found["seconds_per_image"]) == 2
    assert 0 < min(found["seconds_per_image"]) < 1e-2
    assert found["flops_per_image"] == pytest.approx(2 * 2 * 784 * 10, rel=0.5)  # forward, and the weights' gradient


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
def test_pytorch_learns_by_the_recipe(vgg_config: ConfigDict, small_dataset: Dataset) -> None:
    vgg_config.model.update(batch_norm="before", bn_momentum=0.8, conv="auto")
    vgg_config.update(optimizer="nesterov", schedule="linear", learning_rates=(0.05,), epochs=(6,), label_smoothing=0.1)
    config = resolve(vgg_config, small_dataset)
    seconds, accuracy = torch_recipe.create_training(config, small_dataset)(0)
    assert seconds > 0
    assert accuracy > 0.3  # of ten classes, after 42 steps


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer", "adam", "config.optimizer is 'adam': expected one of sgd, nesterov"),
        ("average_decay", 0.9, "averages weights"),
    ],
)
def test_recipes_that_pytorch_is_not_given(
    small_config: ConfigDict, small_dataset: Dataset, field: str, value: object, message: str
) -> None:
    small_config[field] = value
    with pytest.raises(ConfigError, match=message):
        torch_recipe.create_training(resolve(small_config, small_dataset), dataclasses.replace(small_dataset))

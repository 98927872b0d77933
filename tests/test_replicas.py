"""Several seeds in one compiled program: each does what it would do alone."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax import input_pipeline, parallel
from digits_jax import train_loop as train
from digits_jax.config import resolve
from digits_jax.data import Dataset
from digits_jax.experiment import build
from digits_jax.metrics import Metrics
from digits_jax.runs.interrupts import Interrupted
from digits_jax.train_step import create_keys
from tests.test_train import interrupted_at, without_clock

SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)


@pytest.fixture
def regularised(vgg_config: ConfigDict) -> ConfigDict:
    vgg_config.model.batch_norm = "after"
    vgg_config.model.hidden_dropout = 0.5
    vgg_config.model.widths = ((8, 8),)
    vgg_config.model.block_dropout = (0.0,)
    vgg_config.augment.shear = 0.3
    return vgg_config


def first_call(config: ConfigDict, dataset: Dataset, seeds: tuple[int, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The compiled steps of these seeds, and what they take for the first step."""
    configs = [resolve(config, dataset, seed=seed) for seed in seeds]
    experiments = [build(c, dataset, num_replicas=len(seeds)) for c in configs]
    states = [experiment.create_state(np.uint32(seed)) for experiment, seed in zip(experiments, seeds, strict=True)]
    feed = experiments[0].pipeline
    batches = parallel.stack(
        [
            input_pipeline.epoch_batches(create_keys(s.seed).order, 0, num_examples=feed.num_examples, batch_size=16)
            for s in states
        ]
    )
    call = next(feed.calls(batches, first_step=0))._replace(stop=1)
    state, metrics = parallel.stack([(state, Metrics.zero()) for state in states])
    return experiments[0].train_steps, (state, metrics, *call)


@pytest.mark.slow
def test_a_replicas_first_step_is_that_of_its_seed_alone(regularised: ConfigDict, small_dataset: Dataset) -> None:
    steps, arguments = first_call(regularised, small_dataset, SEEDS)
    together = parallel.unstack(steps(*arguments), len(SEEDS))
    for seed, (state, metrics) in zip(SEEDS, together, strict=True):
        steps, arguments = first_call(regularised, small_dataset, (seed,))
        alone, alone_metrics = steps(*arguments)
        assert int(state.seed) == seed
        assert int(metrics.count) == 16
        assert float(metrics.loss_sum) == pytest.approx(float(alone_metrics.loss_sum), rel=1e-5)
        # The rate is 0.01: parameters that agree to 1e-5 have gradients that agree to 1e-3. Closer than that they are
        # only where no max-pool has two values that differ in their last bit.
        for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        for ours, theirs in zip(jax.tree.leaves(state.batch_stats), jax.tree.leaves(alone.batch_stats), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.devices
@pytest.mark.parametrize("conv", ["winograd", "matmul"])
def test_replicas_are_spread_over_devices_and_never_talk(
    regularised: ConfigDict, small_dataset: Dataset, conv: str
) -> None:
    regularised.execution.kernels = conv
    steps, arguments = first_call(regularised, small_dataset, SEEDS)
    kernel = jax.tree.leaves(arguments[0].params)[-1]
    assert len(kernel.sharding.device_set) == 8
    program = steps.lower(*arguments).compile().as_text()
    assert re.findall(r"(?:all|collective|reduce|ragged)-[\w-]+\(", program) == []


@pytest.mark.devices
def test_stack_and_unstack() -> None:
    trees = [{"a": np.full((2,), i, np.float32), "b": np.float32(i)} for i in range(6)]
    stacked = parallel.stack(trees)
    assert stacked["a"].shape == (6, 2)
    assert len(stacked["a"].sharding.device_set) == 6
    for tree, again in zip(trees, parallel.unstack(stacked, 6), strict=True):
        np.testing.assert_array_equal(again["a"], tree["a"])
        assert float(again["b"]) == float(tree["b"])


@pytest.mark.devices
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 5),
        ({"execution.seeds_at_once": 2}, 2),
        ({"execution.seeds_at_once": 7}, 5),
        ({"early_stopping_epochs": 1}, 1),
        ({"execution.images_on": "host"}, 1),
    ],
)
def test_how_many_at_once(small_config: ConfigDict, changes: dict[str, Any], expected: int) -> None:
    small_config.update_from_flattened_dict(changes)
    assert parallel.seeds_at_once(small_config, 5) == expected


def test_a_single_one_on_one_device_is_not_copied() -> None:
    array = jnp.zeros((2,), jnp.float32)
    assert parallel.stack([array]).unsafe_buffer_pointer() == array.unsafe_buffer_pointer()


def test_on_one_cpu_seeds_follow_each_other(small_config: ConfigDict) -> None:
    assert parallel.seeds_at_once(small_config, 5) == 1


def run_seeds(config: ConfigDict, folder: Path, seeds: tuple[int, ...]) -> list[list[dict[str, Any]]]:
    finished = train.train_seeds(config, seeds, lambda resolved: folder / str(resolved.seed))
    return [progress.rows for progress in finished.values()]


def test_each_seed_is_reported_by_itself(
    small_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small_config.execution.seeds_at_once = 2
    rows = run_seeds(small_config, tmp_path / "together", (3, 4))
    assert "2 seeds in one program" in capsys.readouterr().out
    small_config.execution.seeds_at_once = 1
    alone = run_seeds(small_config, tmp_path / "alone", (3, 4))
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[-5:-1]] == ["3", "4", "mean", "standard"]
    for seed, ours, theirs in zip((3, 4), rows, alone, strict=True):
        for row, expected in zip(without_clock(ours), without_clock(theirs), strict=True):
            assert row == pytest.approx(expected, rel=1e-4)
        results = [json.loads((tmp_path / n / str(seed) / "result.json").read_text()) for n in ("together", "alone")]
        assert results[0]["config"]["seed"] == seed
        assert results[0]["config_hash"] == results[1]["config_hash"]
        assert results[0]["epochs"] == ours
    assert rows[0][0]["train/loss"] != rows[1][0]["train/loss"]


@pytest.mark.slow
def test_interrupted_replicas_go_on_bit_for_bit(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_config.execution.seeds_at_once = 2
    undisturbed = run_seeds(small_config, tmp_path / "a", (0, 1))
    with monkeypatch.context() as patch:
        interrupted_at(patch, calls_before=2)
        with pytest.raises(Interrupted):
            run_seeds(small_config, tmp_path / "b", (0, 1))
    resumed = run_seeds(small_config, tmp_path / "b", (0, 1))
    assert [without_clock(rows) for rows in resumed] == [without_clock(rows) for rows in undisturbed]


def test_seeds_that_are_not_equally_far(small_config: ConfigDict, tmp_path: Path) -> None:
    run_seeds(small_config, tmp_path, (1,))
    result = (tmp_path / "1" / "result.json").read_bytes()
    rows = run_seeds(small_config, tmp_path, (0, 1))
    assert [row["epoch"] for row in rows[0]] == [row["epoch"] for row in rows[1]] == [1, 2]
    assert (tmp_path / "1" / "result.json").read_bytes() == result

"""Weights of other runs: what is taken, what stays frozen, and what identifies the run."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from digits_jax import load_model
from digits_jax.errors import ConfigError, UserError
from digits_jax.train_loop import train_and_evaluate


@pytest.fixture
def like_trained(vgg_config: ConfigDict) -> ConfigDict:
    """Returns the config of the fixture `trained`, for one epoch."""
    vgg_config.model.update(batch_norm="after", bn_momentum=0.9)
    vgg_config.learning_rates, vgg_config.epochs = (0.1,), (1,)
    return vgg_config


def recorded(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def test_frozen_parameters_and_statistics_keep_the_values_of_the_run(
    like_trained: ConfigDict, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like_trained.init_from, like_trained.freeze = str(trained), ("Conv_*", "BatchNorm_[01]")
    train_and_evaluate(like_trained, tmp_path)
    before, after = load_model(trained).variables, load_model(tmp_path).variables
    changed = {
        "/".join(entry.key for entry in path[:2])
        for path, same in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.array_equal, before, after))
        if not same
    }
    assert changed == {"params/Dense_0", "params/Dense_1", "params/BatchNorm_2", "batch_stats/BatchNorm_2"}
    assert f"20 of 20 arrays start from {trained}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_what_does_not_fit_is_drawn_and_named(
    like_trained: ConfigDict, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like_trained.init_from, like_trained.model.hidden_width = str(trained), 12
    train_and_evaluate(like_trained, tmp_path)
    text = "".join(capsys.readouterr().out.split())
    assert "withoutacounterpart:" in text
    assert "params/Dense_1/kernel" in text.partition("withoutacounterpart:")[2]
    like_trained.model.name = "linear"
    like_trained.model.update(dict.fromkeys(("widths", "hidden_width", "batch_norm", "bn_momentum")))
    with pytest.raises(ConfigError, match="expected weights of which some have the model's names and shapes"):
        train_and_evaluate(like_trained, tmp_path / "other")


@pytest.mark.slow
def test_the_hash_of_the_weights_identifies_the_run(like_trained: ConfigDict, trained: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(trained)
    steps = sorted(int(path.name) for path in (trained / "checkpoints").iterdir() if path.name.isdigit())
    names = [str(trained), str(link), f"{trained}:{steps[0]}", f"{trained}:{steps[1]}"]
    hashes = []
    for number, name in enumerate(names):
        like_trained.init_from = name
        train_and_evaluate(like_trained, tmp_path / str(number))
        run = recorded(tmp_path / str(number))
        hashes.append(run["config_hash"])
        assert run["config"]["init_from_sha256"]
    assert hashes[0] == hashes[1]
    assert len({hashes[0], hashes[2], hashes[3]}) == 2  # the best step is one of the two
    like_trained.init_from = names[2] if hashes[2] != hashes[0] else names[3]
    with pytest.raises(UserError, match=r"config.init_from_sha256 = "):
        train_and_evaluate(like_trained, tmp_path / "0")


def test_weights_that_cannot_be_loaded_are_named(like_trained: ConfigDict, trained: Path, tmp_path: Path) -> None:
    like_trained.init_from = str(tmp_path / "missing")
    with pytest.raises(UserError, match=r"^config.init_from is .*: .*missing does not exist"):
        train_and_evaluate(like_trained, tmp_path / "run")
    like_trained.init_from, like_trained.init_from_sha256 = str(trained), "0" * 64
    with pytest.raises(ConfigError, match="expected the weights with the SHA-256 0000"):
        train_and_evaluate(like_trained, tmp_path / "run")
    for seed in range(2):
        (tmp_path / f"seeds/seed{seed}").parent.mkdir(exist_ok=True)
        (tmp_path / f"seeds/seed{seed}").symlink_to(trained)
    like_trained.init_from, like_trained.init_from_sha256 = str(tmp_path / "seeds"), None
    with pytest.raises(ConfigError, match="an ensemble: expected the directory of one run"):
        train_and_evaluate(like_trained, tmp_path / "run")


def test_a_pattern_that_matches_nothing_is_an_error(small_config: ConfigDict, tmp_path: Path) -> None:
    small_config.freeze = ("Conv_*",)
    with pytest.raises(ConfigError, match=r"config.freeze has 'Conv_\*': expected a pattern of some of Dense_0/kernel"):
        train_and_evaluate(small_config, tmp_path)


def test_metrics_are_means_over_the_steps_of_an_epoch(small_config: ConfigDict, tmp_path: Path) -> None:
    small_config.metrics = ("gradient_norm", "update_norm", "parameter_norm")
    rows = train_and_evaluate(small_config, tmp_path / "with")
    for row, rate in zip(rows, small_config.learning_rates, strict=True):  # an update of SGD is rate times gradient
        assert row["train/update_norm"] == pytest.approx(rate * row["train/gradient_norm"], rel=1e-4)
        assert row["train/parameter_norm"] > 1
    small_config.metrics = ()
    without = train_and_evaluate(small_config, tmp_path / "without")
    for row, plain in zip(rows, without, strict=True):
        assert {*row} - {*plain} == {f"train/{name}_norm" for name in ("gradient", "update", "parameter")}
        assert all(row[key] == plain[key] for key in plain if key != "train/seconds")

"""Training on: a new run that begins where a finished one has ended."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from digits_jax import load_model
from digits_jax.errors import ConfigError, UserError
from digits_jax.train_loop import train_and_evaluate, train_seeds


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


@pytest.fixture
def parent(small_config: ConfigDict, tmp_path: Path) -> Path:
    """A finished run of two epochs."""
    train_and_evaluate(small_config, tmp_path / "parent")
    return tmp_path / "parent"


def test_a_longer_run_is_bit_identical_to_one_from_the_start(
    small_config: ConfigDict, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}
    small_config.epochs = (1, 4)
    train_and_evaluate(small_config, tmp_path / "whole")
    capsys.readouterr()
    train_and_evaluate(small_config, tmp_path / "extended", extend=parent)
    text = capsys.readouterr().out
    assert "continues a run after its 2 epochs, bit-identical to one that was so long from the start" in text
    whole, extended = result(tmp_path / "whole"), result(tmp_path / "extended")
    for key in ("state_sha256", "config_hash", "test_errors"):
        assert whole[key] == extended[key]
    for ours, theirs in zip(extended["epochs"], whole["epochs"], strict=True):
        assert {**ours, "train/seconds": 0} == {**theirs, "train/seconds": 0}
    assert load_model(tmp_path / "extended").step == load_model(tmp_path / "whole").step
    run = json.loads((tmp_path / "extended/run.json").read_text())
    assert run["extends"]["state_sha256"] == result(parent)["state_sha256"]
    assert {path: path.read_bytes() for path in before} == before
    train_and_evaluate(small_config, tmp_path / "extended")  # is now a run as any
    assert "finished, nothing is left to train" in capsys.readouterr().out


@pytest.mark.slow
def test_another_schedule_makes_another_run(
    small_config: ConfigDict, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_config.learning_rates, small_config.epochs = (0.02,), (4,)
    train_and_evaluate(small_config, tmp_path / "whole")
    train_and_evaluate(small_config, tmp_path / "extended", extend=parent)
    text = capsys.readouterr().out
    assert "under another learning rate than a run that was so long from the start would have had" in text
    whole, extended = result(tmp_path / "whole"), result(tmp_path / "extended")
    assert extended["config"]["extends_sha256"] == result(parent)["state_sha256"]
    assert whole["config_hash"] != extended["config_hash"]
    assert extended["epochs"][:2] == result(parent)["epochs"]
    with pytest.raises(UserError, match="extends_sha256"):
        train_and_evaluate(small_config, tmp_path / "extended")
    small_config.learning_rates, small_config.epochs = (0.02,), (5,)
    train_and_evaluate(small_config, tmp_path / "further", extend=tmp_path / "extended")
    assert result(tmp_path / "further")["config"]["extends_sha256"] == extended["state_sha256"]


@pytest.mark.slow
def test_each_seed_continues_its_own_run(small_config: ConfigDict, tmp_path: Path) -> None:
    train_seeds(small_config, [0, 1], lambda config: tmp_path / f"short/seed{config.seed}")
    small_config.epochs = (1, 2)
    train_seeds(small_config, [0, 1], lambda config: tmp_path / f"long/seed{config.seed}", extend=tmp_path / "short")
    train_seeds(small_config, [1], lambda config: tmp_path / "whole")
    assert result(tmp_path / "long/seed1")["state_sha256"] == result(tmp_path / "whole")["state_sha256"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": (1, 1)}, r"^config.epochs is \(1, 1\): expected more than the 2 epochs of .*parent$"),
        (
            {"batch_size": 32},
            r"^config.batch_size is 32: expected 16, as in .*, whose schedule alone may differ",
        ),
        ({"seed": 1}, r"^config.seed is 1: expected 0, as in "),
    ],
)
def test_what_cannot_be_continued(
    changes: dict[str, Any], message: str, small_config: ConfigDict, parent: Path, tmp_path: Path
) -> None:
    small_config.epochs = (1, 4)
    small_config.update(changes)
    with pytest.raises(ConfigError, match=message):
        train_and_evaluate(small_config, tmp_path / "extended", extend=parent)
    assert not (tmp_path / "extended").exists()


def test_a_run_that_is_missing_damaged_or_within_an_epoch(
    small_config: ConfigDict, parent: Path, tmp_path: Path
) -> None:
    small_config.epochs = (1, 4)

    def refused(message: str, folder: Path) -> None:
        with pytest.raises(UserError, match=message):
            train_and_evaluate(small_config, tmp_path / "extended", extend=folder)
        assert not (tmp_path / "extended").exists()

    refused("nowhere has no run.json: expected the directory of a run", tmp_path / "nowhere")
    steps = sorted(int(path.name) for path in (parent / "checkpoints").iterdir())
    shutil.rmtree(parent / f"checkpoints/{steps[-1]}/history")
    refused("has no history", parent)
    for path in (parent / "checkpoints").iterdir():
        shutil.rmtree(path)
    refused("has stopped at step 0, within an epoch: expected a run that ended with one", parent)

"""The steps of a run once more, beside what the run itself made of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict

from digits_jax import train_loop as train
from digits_jax.apps import replay as app
from digits_jax.apps.replay import replay
from digits_jax.config import resolve
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.experiment import build
from digits_jax.runs.checkpoint import Progress

pytestmark = pytest.mark.usefixtures("parsed_flags")


@pytest.mark.slow
def test_the_steps_are_those_of_the_run(vgg_config: ConfigDict, small_dataset: Dataset, tmp_path: Path) -> None:
    vgg_config.model.block_dropout, vgg_config.metrics = (0.5, 0.5), ("gradient_norm",)
    rows = train.train_and_evaluate(vgg_config, tmp_path)
    config = resolve(vgg_config, small_dataset)
    start = Progress.at_the_start(build(config, small_dataset).create_state(np.uint32(0)), config)
    reports = list(replay(config, small_dataset, start, first=5, last=14))
    assert [report.step for report in reports] == list(range(5, 14))
    assert [report.learning_rate for report in reports] == [0.01] * 2 + [0.1] * 7
    assert not any(report.bad for report in reports)
    sizes = [16] * 6 + [4]
    loss = sum(report.loss * size for report, size in zip(reports[2:], sizes, strict=True)) / 100
    assert loss == pytest.approx(rows[1]["train/loss"], rel=1e-6)
    norm = sum(report.gradient_norm * size for report, size in zip(reports[2:], sizes, strict=True)) / 100
    assert norm == pytest.approx(rows[1]["train/gradient_norm"], rel=1e-3)
    assert all(0 < report.gradient_norm < 100 and 0 < report.largest_parameter < 10 for report in reports)


def run_command(folder: Path, steps: str) -> None:
    with flagsaver.flagsaver(steps=steps):
        app.main(["replay", str(folder)])


def test_the_command_shows_where_it_went_wrong(
    small_config: ConfigDict,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    record_locations: Callable[[str], None],
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    record_locations("gs://elsewhere")  # which is not used
    small_config.learning_rates = (1.0, 1e38)
    with pytest.raises(UserError, match="--steps=7:11"):
        train.train_and_evaluate(small_config, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["dataset"]["data_dir"] == "gs://elsewhere"
    capsys.readouterr()
    run_command(tmp_path, "7:9")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    seventh, eighth = (next(line for line in lines if line[:1] == [step]) for step in ("7", "8"))
    assert seventh[1] == "1e+38"
    assert seventh[5:] == []
    assert eighth[5:] == ["the", "loss", "is", "nan"]
    for steps in ("14:16", "20:22"):
        with pytest.raises(ConfigError, match=f"--steps is '{steps}': the run has 14 steps, expected LAST up to that"):
            run_command(tmp_path, steps)
    (tmp_path / "checkpoints/0").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="no longer has a checkpoint of step 3 or before it"):
        run_command(tmp_path, "3:4")


def test_a_run_that_stopped_early(small_config: ConfigDict, data_dir: Path, tmp_path: Path) -> None:
    small_config.update(early_stopping_epochs=1, learning_rates=(0.01, 1e-9), epochs=(1, 5))
    num_steps = 7 * len(train.train_and_evaluate(small_config, tmp_path))
    assert num_steps < 7 * 6
    message = f"the run has {num_steps} steps"
    with pytest.raises(ConfigError, match=message), flagsaver.flagsaver(data_dir=str(data_dir)):
        run_command(tmp_path, f"{num_steps}:{num_steps + 1}")


@pytest.mark.parametrize("steps", ["", "7", "9:7", "7:7", "a:b"])
def test_steps_that_make_no_sense(tmp_path: Path, steps: str) -> None:
    with pytest.raises(ConfigError, match=f"--steps is '{steps}': expected FIRST:LAST"):
        run_command(tmp_path, steps)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no run.json: expected the directory of a run$"):
        run_command(tmp_path, "0:1")
    (tmp_path / "0123abcd").mkdir()
    (tmp_path / "0123abcd/run.json").touch()
    with pytest.raises(UserError, match=r"has no run.json: expected the directory of a run, such as .*/0123abcd$"):
        run_command(tmp_path, "0:1")


@pytest.mark.parametrize("content", ["", "[]", '{"config": {}}'])
def test_a_run_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run.json cannot be read \(.*\): expected what a run writes there"):
        run_command(tmp_path, "0:1")

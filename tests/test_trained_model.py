"""What a run has trained, read back."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
import pytest
from scipy import special

import digits_jax
from digits_jax import load_model
from digits_jax.data import read_cache
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.storage import write_manifest


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    return load_model(trained)


@pytest.fixture(scope="module")
def images(trained: Path, data_dir: Path) -> np.ndarray:
    return _test_set(data_dir)[0]


def _test_set(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    cached = read_cache(data_dir / "optical_digits/1.0.0/digits_jax_arrays.npz")
    assert cached
    return cached[0].test_images, cached[0].test_labels


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A run's folder to damage."""
    return shutil.copytree(trained, tmp_path / "copy")


def test_it_scores_what_the_run_scored(model: TrainedModel, data_dir: Path) -> None:
    images, labels = _test_set(data_dir)
    probabilities = model.predict(images)
    assert probabilities.shape == (360, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    assert (probabilities.argmax(-1) == labels).mean() == model.metrics["test/accuracy"]
    logits = model.logits(images)
    np.testing.assert_allclose(special.softmax(logits, axis=-1), probabilities, atol=1e-6)
    loss = -special.log_softmax(logits, axis=-1)[np.arange(360), labels].mean()
    assert loss == pytest.approx(model.metrics["test/loss"], rel=1e-4)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_an_image_has_the_same_answer_in_any_company(model: TrainedModel, images: np.ndarray, count: int) -> None:
    np.testing.assert_array_equal(model.predict(images[-count or 360 :]), model.predict(images)[-count or 360 :])
    np.testing.assert_array_equal(model.predict(images[:count, :, :, 0]), model.predict(images)[:count])


def test_no_number_of_images_compiles_anew(
    model: TrainedModel, images: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    model.predict(images[:3])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for count in (1, 10, 100, 300):
            model.predict(images[:count])
    assert "Compiling" not in caplog.text


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 28, 28), np.float32), r"images are float32\[2, 28, 28, 1\]: expected uint8\[N, 28, 28, 1\]"),
        (np.zeros((2, 28, 27, 1), np.uint8), r"images are uint8\[2, 28, 27, 1\]: expected uint8\[N, 28, 28, 1\]"),
        (np.zeros((28, 28), np.uint8), r"images are uint8\[28, 28\]: expected uint8\[N, 28, 28, 1\]"),
    ],
)
def test_other_images(model: TrainedModel, images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(images)


def test_which_checkpoint(trained: Path) -> None:
    rows = json.loads((trained / "result.json").read_text())["epochs"]
    accuracies = [row["test/accuracy"] for row in rows]
    assert max(accuracies) == accuracies[0] > accuracies[2]
    best, latest, before = (load_model(trained, checkpoint=which) for which in ("best", "latest", "14"))
    assert [(model.step, model.metrics) for model in (best, before, latest)] == [(row["step"], row) for row in rows]


def test_in_the_middle_of_an_epoch_there_are_no_metrics(copy: Path) -> None:
    # As a run has it that was interrupted there.
    history = copy / "checkpoints/21/history/metadata"
    contents = json.loads(history.read_text())
    history.write_text(json.dumps({**contents, "rows": contents["rows"][:-1]}))
    (copy / "result.json").unlink()
    write_manifest(copy / "checkpoints/21")
    assert load_model(copy, checkpoint="latest").metrics == {}


def _edit_run(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    run = json.loads((folder / "run.json").read_text())
    change(run)
    (folder / "run.json").write_text(json.dumps(run))


def _flip(folder: Path) -> None:
    file = max((folder / "checkpoints/21/arrays/ocdbt.process_0/d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "checkpoint", "message"),
    [
        (shutil.rmtree, "best", r"copy does not exist: expected the directory of a run"),
        (lambda run: (run / "run.json").unlink(), "best", r"copy has no run.json: expected the directory of a run$"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "best", r"checkpoints holds no checkpoint: expected those of"),
        (lambda run: None, "41", r"has no checkpoint of step 41: expected one of .*14, 21$"),
        (_flip, "latest", r"the checkpoint of step 21 in .* is corrupted \(arrays/.* SHA-256 .*\): choose another"),
        (
            lambda run: _edit_run(run, lambda story: story.pop("image_shape")),
            "best",
            r'recorded no shapes: add .*"image_shape": \[28, 28, 1\], "num_classes": 10',
        ),
        (
            lambda run: _edit_run(run, lambda story: story["config"]["model"].update(hidden_width=9)),
            "21",
            r"the checkpoint of step 21 .* is of another run \(config .*: expected .*\): choose another",
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(
    copy: Path, damage: Callable[[Path], None], checkpoint: str, message: str
) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_model(copy, checkpoint=checkpoint)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_finished_epoch(copy: Path) -> None:
    for folder in (copy / "checkpoints").iterdir():
        if folder.name != "21":
            shutil.rmtree(folder)
    history = copy / "checkpoints/21/history/metadata"
    history.write_text(json.dumps({**json.loads(history.read_text()), "rows": []}))
    write_manifest(copy / "checkpoints/21")
    with pytest.raises(UserError, match="has no finished epoch yet that could be the best: use 'latest', or wait"):
        load_model(copy)


@pytest.mark.parametrize("checkpoint", ["", "first", "-1", "1.5", "/etc"])
def test_a_checkpoint_that_makes_no_sense(trained: Path, checkpoint: str) -> None:
    with pytest.raises(ConfigError, match=f"checkpoint is '{checkpoint}': expected 'best', 'latest' or a step"):
        load_model(trained, checkpoint=checkpoint)


def test_a_run_that_is_training_is_left_in_peace(copy: Path) -> None:
    unfinished = copy / "checkpoints/49.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (copy / "checkpoints/49").mkdir()  # saved, and its sums not written yet
    _flip(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with filelock.FileLock(copy / "lock"):
        assert load_model(copy, checkpoint="14").step == 14
        with pytest.raises(UserError, match=r"step 21 .* is corrupted"):
            load_model(copy, checkpoint="latest")
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_importing_the_package_imports_no_jax() -> None:
    code = "import sys, digits_jax; print(digits_jax.__version__, 'jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [digits_jax.__version__, "False"]
    with pytest.raises(AttributeError, match="module 'digits_jax' has no attribute 'load_models'"):
        _ = digits_jax.load_models  # type: ignore[attr-defined]


def test_a_path_in_the_home_directory(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(trained.parent))
    assert load_model(f"~/{trained.name}").step == load_model(trained).step

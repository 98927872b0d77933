"""The network that comes with the package: its files, its predictions, and the commands that use it without a run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict

from digits_jax import load_model
from digits_jax.apps import predict, ship
from digits_jax.apps.evaluate.evaluation import Accuracy
from digits_jax.errors import UserError
from digits_jax.runs import load_initial, shipped
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.storage import write_manifest
from digits_jax.studies.drawings import draw

pytestmark = pytest.mark.usefixtures("parsed_flags")

ROOT = Path(__file__).parents[1]
LINE = "using the shipped network fast (99.50% on MNIST's test images); --workdir=RUN uses another\n"
# Of `images()`. Code that computes others has to come with a network that it trained.
PROBABILITIES = [
    [0.777115, 0.020281, 0.020586, 0.019846, 0.042455, 0.020448, 0.006888, 0.046049, 0.018321, 0.028011],
    [0.009108, 0.932833, 0.007430, 0.009289, 0.005919, 0.009014, 0.006816, 0.006687, 0.005422, 0.007482],
    [0.019487, 0.019542, 0.029315, 0.010673, 0.010199, 0.014615, 0.015059, 0.864320, 0.009990, 0.006800],
    [0.035991, 0.029595, 0.037025, 0.260218, 0.061450, 0.108007, 0.021476, 0.031845, 0.350094, 0.064299],
]


def images() -> np.ndarray:
    """Returns a zero, a one, a seven and no digit, drawn in a way that is the same everywhere."""
    drawn = np.zeros((4, 28, 28), np.uint8)
    drawn[0, 6:22, 8:20], drawn[0, 9:19, 11:17] = 255, 0
    drawn[1, 5:23, 13:16] = 255
    drawn[2, 6:9, 8:20], drawn[2, 6:23, 17:20] = 255, 255
    drawn[3] = np.arange(784).reshape(28, 28) % 256
    return drawn


def save_picture(symbol: str, path: Path) -> str:
    draw(symbol, size=(200, 200), paper="#ffffff", ink="#000000", height=120, width=11).save(path)
    return str(path)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return load_model()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped files to damage, which is used in their place."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    return shutil.copytree(ROOT / "digits_jax/weights", tmp_path / "weights")


def test_its_predictions_are_those_of_the_code_that_trained_it(model: TrainedModel) -> None:
    np.testing.assert_allclose(model.predict(images()), PROBABILITIES, atol=1e-5)


def test_it_is_the_final_epoch_of_fast(model: TrainedModel) -> None:
    assert model.step == model.metrics["step"] == 3 * 938
    assert model.metrics["epoch"] == 3
    assert (model.config.seed, model.config.dataset.name, model.config.dataset.data_dir) == (0, "mnist", None)
    assert model.run["config_hash"] == "e605939f"
    assert not {"code", "registered_by", "resumed_on"} & model.run.keys()
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {np.dtype("float32")}


def test_its_files_are_small_and_its_card_is_true(model: TrainedModel) -> None:
    folder = ROOT / "digits_jax/weights"
    files = ["SHA256SUMS", "fast.json", "fast.md", "fast.npz", "rows.npz"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert (folder / "fast.npz").stat().st_size < 650_000
    assert (folder / "rows.npz").stat().st_size < 200_000
    accuracy = Accuracy.from_counts(round(model.metrics["test/accuracy"] * 10_000), 10_000)
    card = (folder / "fast.md").read_text()
    assert f"\n{accuracy.fraction:.2%} (95% interval {accuracy.interval}) on the 10,000 test images of MNIST" in card


@pytest.mark.parametrize("name", ["best", "latest", "2814"])
def test_it_has_one_checkpoint(name: str, model: TrainedModel) -> None:
    assert load_model(checkpoint=name).step == model.step


def test_it_has_no_other_checkpoint() -> None:
    with pytest.raises(
        UserError, match="the shipped network has no checkpoint of step 938: expected that of step 2814"
    ):
        load_model(checkpoint=938)


def test_other_test_time_augmentation(model: TrainedModel) -> None:
    several = load_model(test_time_augmentation="shifts")
    assert (several.config.test_time_augmentation, model.config.test_time_augmentation) == ("shifts", "none")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_arrays(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(path) as arrays:
        changed = {name: change(array) for name, array in arrays.items()}
    np.savez(path, **changed)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a flipped byte": ("fast.npz", flip, r"fast.npz has another SHA-256 than in SHA256SUMS"),
    "truncated": ("fast.npz", lambda path: os.truncate(path, 300_000), r"fast.npz has another SHA-256"),
    "other arrays": ("fast.npz", lambda path: write_arrays(path, lambda x: x + 1), r"fast.npz has another SHA-256"),
    "missing": ("fast.npz", Path.unlink, r"fast.npz is missing"),
    "a description with a flipped byte": ("fast.json", flip, r"fast.json has another SHA-256"),
    "no checksums": ("SHA256SUMS", Path.unlink, r"SHA256SUMS is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_corrupted_files_are_named(damage: str, copy: Path) -> None:
    name, apply, reason = DAMAGE[damage]
    apply(copy / name)
    with pytest.raises(UserError, match=rf"the shipped network in .*weights is .*{reason}.*: install digits_jax again"):
        load_model()
    with flagsaver.flagsaver(workdir=None), pytest.raises(UserError, match=reason):
        predict.main(["predict", "picture.png"])


@pytest.mark.parametrize(
    "change", [lambda x: x[..., :-1], lambda x: x.astype(np.float64)], ids=["other shapes", "other types"]
)
def test_arrays_that_do_not_fit_the_config(change: Callable[[np.ndarray], np.ndarray], copy: Path) -> None:
    write_arrays(copy / "fast.npz", change)
    write_manifest(copy)
    with pytest.raises(UserError, match=r"is not the one that its config describes \(params/\w+/\w+ is missing or has"):
        load_model()


def test_pictures_are_read_right_after_the_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    paths = [save_picture(symbol, tmp_path / f"{symbol}.png") for symbol in ("7", "A", "3")]
    with flagsaver.flagsaver(workdir=None):
        assert predict.main(["predict", *paths]) == 0
    out, err = capsys.readouterr()
    assert err == LINE
    seven, letter, three = (line.rpartition("/")[2] for line in out.splitlines())
    assert seven.startswith("7.png: 7  ")
    assert letter.startswith("A.png: ? unlike the digits that the model was trained on (")
    assert three.startswith("3.png: 3  ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.png", "7.png", "A.png"]


def test_a_run_can_start_from_it(model: TrainedModel, small_config: ConfigDict) -> None:
    small_config.init_from = "shipped"
    config, variables = load_initial(small_config)
    assert len(config.init_from_sha256) == 64
    jax.tree.map(np.testing.assert_array_equal, variables, model.variables)


def test_a_run_becomes_the_shipped_network(
    trained: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "_NUM_LETTERS", 1)
    for name in ("a", "b"):
        with flagsaver.flagsaver(workdir=str(trained), weights=str(tmp_path / name), data_dir=str(data_dir)):
            ship.main(["ship"])
        monkeypatch.setattr(shipped, "FOLDER", tmp_path / name)
        ours, theirs = load_model(), load_model(trained, checkpoint="latest")
        jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
        assert ours.metrics == {key: value for key, value in theirs.metrics.items() if key != "train/seconds"}
    for name in ("fast.npz", "fast.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
def test_an_installed_package(tmp_path: Path, data_dir: Path) -> None:
    """Runs the commands of a wheel in an empty directory, without MNIST; then with one byte of it flipped."""
    pytest.importorskip("hatchling", reason="needs hatchling: ./launch.sh setup dev")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    (tmp_path / "here").mkdir()
    save_picture("7", tmp_path / "here/seven.png")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "TFDS_DATA_DIR": str(tmp_path / "nothing")}

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", f"digits_jax.apps.{name}", *arguments]
        found = subprocess.run(
            command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=300
        )
        return found.returncode, found.stdout, found.stderr

    code, out, err = run("predict", "seven.png")
    assert (code, out[:14], err) == (0, "seven.png: 7  ", LINE)
    code, out, err = run("export", "--to=npz")
    assert (code, err) == (0, LINE)
    assert out.startswith("runs/shipped/export/vgg-e605939f-2814.npz and its model card")
    code, out, err = run("evaluate", "--dataset=optical_digits", f"--data_dir={data_dir}")
    assert (code, err) == (0, LINE)
    scored = json.loads((tmp_path / "here/runs/shipped/evaluation/optical_digits/evaluation.json").read_text())
    assert scored["dataset"]["test_examples"] == 360

    flip(tmp_path / "installed/digits_jax/weights/fast.npz")
    for name, arguments in (("predict", ["seven.png"]), ("evaluate", []), ("export", ["--to=npz"]), ("demo", [])):
        code, out, err = run(name, *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert "error: the shipped network in " in err

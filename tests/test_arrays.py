"""Data sets from arrays: any channels, sizes and classes; `train`; data that change under their name."""

import base64
import gc
import io
import json
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from digits_jax import data, load_model, train
from digits_jax.apps.evaluate.evaluation import evaluate
from digits_jax.apps.evaluate.page import write_evaluation
from digits_jax.apps.export.formats import FORMATS, TOLERANCE, export_model
from digits_jax.apps.reader.digit_reader import load_reader
from digits_jax.config import get_config
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, DivergedError, UserError
from digits_jax.pages import digits_gallery
from digits_jax.runs.checkpoint import state_hash
from digits_jax.runs.interrupts import Interrupted
from tests.conftest import idx_bytes
from tests.test_readme import ROOT, blocks
from tests.test_train import interrupted_at, without_clock

Examples = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def examples(shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 5, count: int = 60) -> Examples:
    """Noisy copies of one random image per class, for training and half as many for testing."""
    random = np.random.default_rng(0)
    patterns = random.integers(0, 128, (num_classes, *shape))

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % num_classes
        return (patterns[labels] + random.integers(0, 128, (count, *shape))).astype(np.uint8), labels

    return (*split(count), *split(count // 2))


@pytest.fixture
def config() -> ConfigDict:
    config = get_config()
    config.model.name = "linear"
    config.learning_rates, config.epochs, config.batch_size = (0.01, 0.01), (1, 1), 16
    config.execution.steps_per_call = 2
    return config


@pytest.mark.slow
def test_rgb_images(config: ConfigDict, tmp_path: Path) -> None:
    given = examples()
    config.model.update(name="vgg", widths=((4,), (4,)), hidden_width=8)
    config.learning_rates, config.epochs = (0.05,), (3,)
    found = train(config, given, workdir=tmp_path / "run")
    assert [row["epoch"] for row in found.rows] == [1, 2, 3]
    assert found.rows[-1]["train/loss"] < found.rows[0]["train/loss"]
    assert found.result["final"] == found.rows[-1]
    assert (found.model.image_shape, found.model.num_classes) == ((32, 32, 3), 5)
    accuracy = (found.model.predict(given[2]).argmax(-1) == given[3]).mean()
    assert accuracy == found.model.metrics["test/accuracy"] == max(row["test/accuracy"] for row in found.rows)
    assert found.result["state_sha256"] == state_hash(found.state)
    loaded = load_model(tmp_path / "run").predict(given[2])
    np.testing.assert_array_equal(found.model.predict(given[2]), loaded)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["config"]["dataset"]["name"] == run["dataset"]["name"] == "arrays"
    for name, format_ in FORMATS.items():
        for package in format_.packages:
            pytest.importorskip(package)
        assert export_model(found.model, name, tmp_path / name, given[2]).difference < TOLERANCE
    dataset = Dataset.from_arrays(*given)
    write_evaluation(evaluate(found.model, dataset), found.model, dataset, tmp_path)
    assert (tmp_path / "evaluation.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(24, 17), (17, 24, 1), (12, 20, 2)])
def test_images_that_are_not_square(config: ConfigDict, shape: tuple[int, ...]) -> None:
    given = examples(shape, num_classes=3)
    config.augment.rotation = 10.0
    found = train(config, given)
    assert found.model.image_shape == (*shape, 1)[:3]
    assert found.model.predict(given[2]).shape == (30, 3)


@pytest.fixture
def many() -> Examples:
    """One training image of each of 300 classes, and every other class to test on."""
    images, labels, test_images, test_labels = examples((8, 8), num_classes=300, count=300)
    return images, labels, test_images, 2 * test_labels[::-1]


@pytest.mark.slow
def test_more_classes_than_a_byte_has(config: ConfigDict, many: Examples, tmp_path: Path) -> None:
    found = train(config, many)
    assert found.model.predict(many[2]).shape == (150, 300)
    dataset = Dataset.from_arrays(*many)
    assert dataset.arrays.test_labels.tolist() == many[3].tolist()
    result = evaluate(found.model, dataset)
    assert len(result.scores.confusion) == 300
    assert {mistake.label for mistake in result.mistakes} <= set(many[3].tolist())
    write_evaluation(result, found.model, dataset, tmp_path)


@pytest.mark.parametrize("name", ["many", "rgb"])
def test_a_prepared_data_set_of_them(
    name: str, many: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, num_classes = (many, 400) if name == "many" else (examples(), 5)
    fields: dict[str, Any] = {"version": "1.0.0", "description": name, "homepage": "", "num_classes": num_classes}
    spec = data.DatasetSpec(**fields, read=lambda _: data.Arrays(*given), cached=True)
    monkeypatch.setitem(data.DATASETS, name, spec)
    expected = Dataset.from_arrays(*given, num_classes=num_classes)
    for remove in (False, False, True):  # read, cached, decoded
        if remove:
            data.cache_file(name, str(tmp_path)).unlink()
        found = data.load(name, data_dir=str(tmp_path))
        assert (found.sha256, found.image_shape) == (expected.sha256, expected.image_shape)
        for a, b in zip(found.arrays, expected.arrays, strict=True):
            np.testing.assert_array_equal(a, b)
    assert found.arrays.test_labels.tolist() == given[3].tolist()
    images, labels = found.open_train()(np.array([7, 3]))
    np.testing.assert_array_equal(images, expected.arrays.train_images[[7, 3]])
    np.testing.assert_array_equal(labels, expected.arrays.train_labels[[7, 3]])


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.uint64),
        lambda x: x.astype(np.int32)[...],
        lambda x: jnp.asarray(x, jnp.int32),
        lambda x: x.tolist(),
    ],
)
def test_types_of_integers_make_no_difference(convert: Callable[[np.ndarray], Any]) -> None:
    given = examples((4, 5))
    as_bytes = Dataset.from_arrays(*(array.astype(np.uint8) for array in given))
    assert Dataset.from_arrays(*map(convert, given)).sha256 == as_bytes.sha256
    assert {array.dtype for array in as_bytes.arrays} == {np.dtype(np.uint8)}
    assert Dataset.from_arrays(given[0].astype(float), *given[1:]).sha256 == as_bytes.sha256
    # The arrays of `Dataset.arrays` have their channel.
    assert Dataset.from_arrays(*as_bytes.arrays).sha256 == as_bytes.sha256


def _with(number: int, change: Callable[[np.ndarray], Any]) -> Callable[[Examples], Any]:
    return lambda given: [change(array) if i == number else array for i, array in enumerate(given)]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (_with(0, lambda x: x / np.float32(255)), {},
         r"train_images are float32\[60, 4, 5\] with values from 0.* to 0.*: expected integers from 0 to 255"),
        (_with(2, lambda x: np.full(x.shape, np.nan)), {}, r"test_images are .* from nan to nan: expected integers"),
        (_with(0, lambda x: x.astype(int) - 99), {}, r"train_images are int64\[60, 4, 5\] with values from -\d+ to "),
        (_with(0, lambda x: x.astype(int) + 200), {}, r"values from 2\d\d to 4\d\d: expected integers"),
        (_with(0, lambda x: x > 9), {}, r"train_images are bool\[60, 4, 5\]: expected uint8\[N, H, W\] or uint8\[N, H"),
        (_with(0, lambda x: x.reshape(60, -1)), {}, r"train_images are uint8\[60, 20\]: expected uint8\[N, H, W\]"),
        (_with(2, lambda x: x[:0]), {}, r"test_images are uint8\[0, 4, 5\]: expected"),
        (_with(2, lambda x: x[:, 1:]), {}, r"test_images are uint8\[30, 3, 5, 1\]: expected \[30, 4, 5, 1\], as tr"),
        (_with(0, lambda x: np.zeros((60, 1025, 1), np.uint8)), {}, r"\[60, 1025, 1\]: expected H, W and C up to 1024"),
        (_with(1, lambda x: x[1:]), {}, r"train_labels are int64\[59\]: expected integers \[60\], one for each image"),
        (_with(3, lambda x: x[:, None]), {}, r"test_labels are int64\[30, 1\]: expected integers \[30\]"),
        (_with(1, lambda x: x.astype(float)), {}, r"train_labels are float64\[60\]: expected integers \[60\]"),
        (_with(3, lambda x: x - 1), {}, r"test_labels have the label -1: expected integers from 0"),
        (_with(3, lambda x: x + 1), {"num_classes": 5}, r"test_labels have the label 5: expected integers from 0 to 4"),
        (_with(3, lambda x: x + 996), {}, r"num_classes is 1001: expected an integer from 2 to 1000"),
        (lambda given: given, {"num_classes": 1}, r"num_classes is 1: expected an integer from 2 to 1000"),
        (lambda given: given, {"validation_examples": 60}, r"validation_examples is 60: expected fewer than the 60"),
        (lambda given: given, {"validation_examples": -1}, r"validation_examples is -1: expected fewer than the 60"),
        (lambda given: given, {"train_examples": 61}, r"train_examples is 61: expected at most the 60 .* of arrays"),
        (lambda given: given, {"name": "../x"}, r"the name of a data set is '../x': expected a name, such as vgg"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(change: Callable[[Examples], Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Dataset.from_arrays(*change(examples((4, 5))), **options)
    assert "\n" not in str(caught.value)


def test_other_arguments_that_do_not_fit(config: ConfigDict) -> None:
    with pytest.raises(UserError, match="data has 3 arrays: expected train_images, train_labels, test_images, test_la"):
        train(config, examples()[:3])
    with pytest.raises(ConfigError, match="config file 'fastt' not found: expected"):
        train("fastt", examples())
    with pytest.raises(ConfigError, match=r"config.seed is -1: expected"):
        train(config, examples(), seed=-1)
    config.num_seeds = 2
    with pytest.raises(ConfigError, match=r"config.num_seeds is 2: expected 1, and a call for each seed"):
        train(config, examples())


@pytest.mark.slow
def test_a_temporary_directory_is_all_that_is_written(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for variable in ("HOME", "TFDS_DATA_DIR", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    dataset = Dataset.from_arrays(*examples(), validation_examples=10)
    alive: list[Any] = [weakref.ref(dataset), weakref.ref(dataset.arrays.train_images)]
    first = train(config, dataset, seed=3)
    out = capsys.readouterr().out
    assert "10 held out" in out
    assert "that directory is temporary and now removed: give a workdir to keep the run" in out
    second = train(config, dataset, seed=3, quiet=True)
    assert capsys.readouterr().out == ""
    assert state_hash(first.state) == state_hash(second.state)
    assert first.model.config.seed == 3
    assert "test/accuracy" not in first.rows[0]
    assert first.result["selected_by"] == "validation/accuracy"
    assert first.model.config.dataset.validation_examples == 10
    del dataset
    gc.collect()
    assert [reference() for reference in alive] == [None, None]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_diverges_leaves_nothing(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config.learning_rates = (1e38, 1e38)
    with pytest.raises(DivergedError, match=r"^the loss is \w+ at step \d+ \(learning rate 1e\+38\)$"):
        train(config, examples())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_finite_weights_whose_scores_are_not(config: ConfigDict, tmp_path: Path) -> None:
    config.learning_rates, config.epochs, config.batch_size = (1e37,), (2,), 60  # a single step per epoch
    with pytest.raises(DivergedError, match=r"^test/loss is (nan|inf) after step 1$"):
        train(config, examples(), workdir=tmp_path / "run")
    assert json.loads((tmp_path / "run/diverged.json").read_text())["reason"].startswith("test/loss is ")


def test_in_a_thread_and_by_the_name_of_an_experiment(tmp_path: Path) -> None:
    results = []

    def run() -> None:
        results.append(train("linear:smoke", examples(count=300), workdir=tmp_path / "run"))

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert results[0].model.config.dataset.train_examples == 256
    assert load_model(tmp_path / "run").step == results[0].model.step


@pytest.mark.slow
def test_interrupted_and_resumed_is_bit_identical(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.augment.rotation = 10.0
    expected = train(config, examples(), workdir=tmp_path / "a")
    interrupted_at(monkeypatch, calls_before=3)
    with pytest.raises(Interrupted):
        train(config, examples(), workdir=tmp_path / "b")
    monkeypatch.undo()
    found = train(config, examples(), workdir=tmp_path / "b")
    assert state_hash(found.state) == state_hash(expected.state)
    assert without_clock(found.rows) == without_clock(expected.rows)


def test_a_workdir_belongs_to_its_arrays(config: ConfigDict, tmp_path: Path) -> None:
    found = train(config, examples(), workdir=tmp_path)
    again = train(config, Dataset.from_arrays(*examples()), workdir=tmp_path)  # nothing is left to train
    assert (again.rows, again.result) == (found.rows, found.result)
    other = examples()
    other[0][0, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match=r"holds a run with dataset.sha256 = '\w+', this one has '\w+': give another"):
        train(config, other, workdir=tmp_path)
    with pytest.raises(UserError, match=r"holds a run with dataset.name = 'arrays', this one has 'mine'"):
        train(config, Dataset.from_arrays(*examples(), name="mine"), workdir=tmp_path)


@pytest.mark.slow
def test_images_on_the_host(config: ConfigDict) -> None:
    on_device = train(config, examples())
    config.execution.images_on = "host"
    assert state_hash(train(config, examples()).state) == state_hash(on_device.state)


def test_changed_arrays_of_a_registered_data_set(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list(examples())
    fields: dict[str, Any] = {"version": "1.0.0", "description": "", "homepage": "", "num_classes": 5}
    monkeypatch.setitem(data.DATASETS, "mine", data.DatasetSpec(**fields, read=lambda _: data.Arrays(*given)))
    config.dataset.update(name="mine", data_dir=str(tmp_path / "data"))
    first = train(config, workdir=tmp_path / "run")
    assert not (tmp_path / "data").exists()
    given[1], given[3] = (given[1] + 1) % 5, (given[3] + 1) % 5
    second = data.load_configured(config.dataset)
    np.testing.assert_array_equal(second.arrays.test_labels, given[3])
    assert second.sha256 != first.model.run["dataset"]["sha256"]
    with pytest.raises(UserError, match=r"holds a run with dataset.sha256 = "):
        train(config, workdir=tmp_path / "run")
    given[1] = given[1] + 1
    with pytest.raises(UserError, match="train_labels have the label 5: expected integers from 0 to 4"):
        train(config)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_channels_are_shown(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 6, channels), np.uint8)
    found = re.search(r"base64,([^\"]*)", digits_gallery("title", [(pixels, "")]))
    assert found
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as shown:
        np.testing.assert_array_equal(np.asarray(shown), pixels if channels == 3 else 255 - pixels[..., 0])


@pytest.mark.slow
def test_commands_about_a_run_on_arrays(config: ConfigDict, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    train(config, examples(), workdir=workdir)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=120)

    for arguments in (
        ("digits_jax.apps.evaluate", f"--workdir={workdir}"),
        ("digits_jax.apps.replay", str(workdir), "--steps=0:2"),
    ):
        found = run(*arguments)
        assert found.returncode == 2
        assert found.stderr == (
            "error: the data set is 'arrays': expected one of mnist, fashion_mnist, kmnist, optical_digits; if it was "
            "given from Python, use load_model(...).predict\n"
        )
    found = run("digits_jax.apps.export", f"--workdir={workdir}", "--to=npz")
    assert found.returncode == 0, found.stderr
    assert "reloaded and checked on 1,000 random images" in found.stdout
    [card] = (workdir / "export").glob("*.md")
    assert "# linear trained on arrays" in card.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "num_classes"), [((28, 28), 26), ((32, 32, 3), 10)])
def test_what_is_no_digit_is_not_read(
    config: ConfigDict, tmp_path: Path, shape: tuple[int, ...], num_classes: int
) -> None:
    train(config, examples(shape, num_classes), workdir=tmp_path)
    found = f"{num_classes} classes and images of {'x'.join(map(str, (*shape, 1)[:3]))}"
    with pytest.raises(UserError, match=f"{tmp_path} has {found}: expected a run on the 10 digits in images of 28"):
        load_reader(str(tmp_path), checkpoint="best")


@pytest.mark.slow
def test_the_blocks_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the Python blocks of docs/data.md, which use what is not downloaded."""
    monkeypatch.chdir(tmp_path)
    pattern, page = re.compile("import train|emnist"), ROOT / "docs/data.md"
    code = {name: block for block in blocks(page, "python") for name in pattern.findall(block)}
    variables: dict[str, Any] = {}
    exec(code["import train"], variables)
    assert variables["run"].model.predict(variables["test_images"]).shape == (100, 5)

    monkeypatch.setattr(data.sources, "DATASETS", table := dict(data.DATASETS))
    monkeypatch.setattr(data, "DATASETS", table)
    monkeypatch.setattr(data.datasets, "DATASETS", table)
    exec(code["emnist"], {})
    random, folder = np.random.default_rng(0), tmp_path / "gzip"
    folder.mkdir()
    letters = {}
    for split, count in (("train", 52), ("test", 26)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 26).astype(np.uint8)
        letters[split] = images, labels
        (folder / f"emnist-letters-{split}-images-idx3-ubyte").write_bytes(idx_bytes(images.swapaxes(1, 2)))
        (folder / f"emnist-letters-{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels + np.uint8(1)))
    with pytest.raises(
        UserError, match=r"emnist_letters is not prepared in .* and there is no url to download it from"
    ):
        data.load("emnist_letters", data_dir=str(tmp_path / "data"))
    for source in (str(tmp_path), None):
        found = data.load("emnist_letters", data_dir=str(tmp_path / "data"), source_dir=source)
        assert found.num_classes == 26
        for split, (images, labels) in letters.items():
            np.testing.assert_array_equal(found.split(split)[0][..., 0], images)
            np.testing.assert_array_equal(found.split(split)[1], labels)
    (folder / "emnist-letters-test-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(UserError, match="emnist-letters-test-labels-idx1-ubyte holds the label 0: expected 1 to 26"):
        data.load("emnist_letters", data_dir=str(tmp_path / "data"), source_dir=str(tmp_path))
